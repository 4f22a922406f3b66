"""A packed network as a deployment of Ray Serve: requests of single images become batches by themselves.

pip install 'xnorinfer[ray]' 'ray[serve]'
serve run examples.ray_serve:app                     # from a checkout; or python examples/ray_serve.py, which asks it once
head -c 784 image.raw | curl --data-binary @- http://127.0.0.1:8000/
"""

from __future__ import annotations

import json
import urllib.request

import numpy as np
from numpy.typing import NDArray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

import xnorinfer
from xnorinfer.errors import InputError


@serve.deployment(num_replicas=1, max_ongoing_requests=512, ray_actor_options={"num_cpus": 1})
class Classifier:
    """One replica: the model is loaded once, and replicas on a node share its packed bits through the mapped file."""

    def __init__(self, model: str) -> None:
        self.model = xnorinfer.load(model, threads=1, mapped=True)

    @serve.batch(max_batch_size=256, batch_wait_timeout_s=0.001)
    async def scores(self, images: list[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """Of many requests at once: (depth,) each -> (classes,) each."""
        return list(self.model.scores(np.stack(images)))

    async def __call__(self, request: Request) -> JSONResponse:
        """The pixels of one image as bytes -> its class and scores, or 400 with what is wrong."""
        image = np.frombuffer(await request.body(), np.uint8)
        depth = self.model.packed.depth
        if len(image) != depth:
            return JSONResponse({"error": f"{len(image)} bytes; this model takes {depth} pixels, a byte each"}, 400)
        try:
            scores = await self.scores(image)
        except InputError as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse({"class": int(scores.argmax()), "scores": scores.tolist()})


app = Classifier.bind("mnist-784-1024x3")


def main() -> None:
    from xnorinfer.shipped import sample_digits

    serve.run(app)
    images, classes = sample_digits()
    request = urllib.request.Request("http://127.0.0.1:8000/", data=images[0].tobytes())
    with urllib.request.urlopen(request) as response:
        print(f"class {json.load(response)['class']}, label {classes[0]}")
    serve.shutdown()


if __name__ == "__main__":
    main()
