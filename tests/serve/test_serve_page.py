"""The page in headless Chromium: drawn by mouse and by keys, images, widths, light and dark, what screen readers are told."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers import Running, conv_model, save

import xnorinfer
from xnorinfer.net.windows import Window
from xnorinfer.shipped import sample_digits

playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested with the package playwright")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="the page is tested in Chromium, and no chromium is in PATH")

MNIST = "mnist-784-1024x3"
WIDTHS = (320, 768, 1280, 2560)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """MNIST's network, one of 8x8 pixels, one that takes no images, one of images in colour, and one that gives maps."""
    folder = tmp_path_factory.mktemp("served")
    square, reals = save(folder / "small.safetensors", 1), save(folder / "reals.safetensors", 2, "reals")
    conv_model(shape=(8, 12, 3)).save(folder / "colour.safetensors")
    conv_model(Window((2, 2)), (8, 12, 3)).save(folder / "maps.safetensors")
    server = Running(MNIST, square, reals, folder / "colour.safetensors", folder / "maps.safetensors")
    yield server
    server.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        # Without its sandbox where tests run as root, as in containers.
        options = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
        opened = started.chromium.launch(executable_path=BROWSER, args=options)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, running: Running) -> Iterator[Callable[..., Any]]:
    """Opens the page; afterwards nothing was asked of another host, and nothing was complained of in the console."""
    with contextlib.ExitStack() as stack:
        asked: list[str] = []
        complaints: list[str] = []

        def opened(server: Running = running, model: str | None = MNIST, **options: Any) -> Any:
            context = browser.new_context(**options)
            stack.callback(context.close)
            made = context.new_page()
            made.on("request", lambda request: asked.append(request.url))
            made.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
            made.on("pageerror", lambda error: complaints.append(str(error)))
            made.goto(server.url)
            if model is not None:
                made.wait_for_function("() => document.getElementById('model').options.length > 0")
                made.select_option("#model", model)
            return made

        yield opened
        assert asked
        assert all(url.startswith((running.url, "http://127.0.0.1:", "blob:", "data:")) for url in asked), asked
        assert [text for text in complaints if "401" not in text] == []


def artefact(page: Any, name: str) -> None:
    """A screenshot, kept where XNORINFER_SCREENSHOTS says."""
    folder = os.environ.get("XNORINFER_SCREENSHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


def draw_one(page: Any) -> None:
    """A stroke from top to bottom, by mouse."""
    box = page.locator("#ink").bounding_box()
    x = box["x"] + box["width"] / 2
    page.mouse.move(x, box["y"] + 0.15 * box["height"])
    page.mouse.down()
    page.mouse.move(x, box["y"] + 0.85 * box["height"], steps=10)
    page.mouse.up()


def answer(page: Any, starts: str = "Class ") -> str:
    page.wait_for_selector("#answer[aria-busy=false]")
    page.wait_for_function("starts => document.getElementById('spoken').textContent.startsWith(starts)", arg=starts)
    return str(page.locator("#spoken").text_content())


def seen(page: Any) -> np.ndarray[Any, Any]:
    """What the page has sent: gray values (height, width)."""
    values = page.evaluate(
        "() => { const c = document.getElementById('seen');"
        "return [c.height, c.width, [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]]; }"
    )
    return np.array(values[2], np.uint8).reshape(values[0], values[1], 4)[:, :, 0]


def test_a_digit_that_is_drawn_is_read(page: Callable[..., Any]) -> None:
    one = page()
    assert one.locator("#spoken").text_content() == "Nothing drawn yet."
    draw_one(one)
    assert answer(one).startswith("Class 1, gap ")
    image = seen(one)
    model = xnorinfer.load(MNIST)
    assert model.predict(image[None]) == [1]
    shown = [float(text) for text in one.locator("#scores tbody td:nth-child(2)").all_text_contents()]
    assert np.allclose(shown, model.scores(image[None])[0], rtol=2e-3, atol=1e-3)
    margins = one.locator("#facts dd").all_text_contents()
    assert margins[0].endswith(" us")
    assert [int(text) for text in margins[1:]] == [int(layer.smallest[0]) for layer in model.margins(image[None]).layers]
    assert one.locator("#scores tr.best th").text_content() == "1"
    artefact(one, "drawn")
    # Scaled and centred as MNIST's images: 20 pixels high, its mass in the middle.
    rows = np.flatnonzero(image.max(axis=1) > 40)
    assert 19 <= len(rows) <= 21
    assert abs(np.average(np.arange(28), weights=image.sum(axis=1, dtype=float)) - 13.5) <= 1
    one.click("#clear")
    assert answer(one, "Nothing").startswith("Nothing drawn yet.")


def test_keys_draw_too(page: Callable[..., Any]) -> None:
    one = page()
    one.wait_for_function("() => document.getElementById('about').textContent !== ''")
    one.focus("#ink")
    one.keyboard.press("Space")
    for _ in range(14):
        one.keyboard.press("ArrowDown")
    one.keyboard.press("Space")
    assert answer(one).startswith("Class 1, gap ")
    artefact(one, "keys")
    one.keyboard.press("Delete")
    assert answer(one, "Nothing").startswith("Nothing drawn yet.")
    # Everything is reached by Tab, in the order of the page.
    order = []
    one = page(model=None)
    one.wait_for_function("() => document.getElementById('about').textContent !== ''")
    for _ in range(9):
        one.keyboard.press("Tab")
        order.append(one.evaluate("document.activeElement.id || document.activeElement.className"))
    assert order[:7] == ["skip", "model", "ink", "clear", "fit", "file", "invert"]


def test_images_are_answered_in_order_and_what_is_none_is_named(page: Callable[..., Any], tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="the test makes images by Pillow")
    digits, _ = sample_digits()
    paths = []
    for number, digit in enumerate(digits[:70]):
        paths.append(tmp_path / f"{number:03}.png")
        image.fromarray(digit).save(paths[-1])
    (tmp_path / "text.png").write_text("no image")
    want = xnorinfer.load(MNIST).predict(digits[:70])
    one = page()
    one.set_input_files("#file", [str(path) for path in paths])
    one.wait_for_function("() => document.getElementById('counted').textContent.startsWith('70 of 70 images, ')")
    assert [int(text) for text in one.locator("#images tbody td:nth-child(3)").all_text_contents()] == want.tolist()
    assert one.locator("#images tbody canvas").first.get_attribute("aria-label") == "000.png"
    artefact(one, "images")
    # Of other sizes, dark on light, and one that is none.
    image.fromarray(255 - digits[0].repeat(10, axis=0).repeat(10, axis=1)).save(tmp_path / "big.jpg", quality=95)
    one.check("#invert")
    one.set_input_files("#file", [str(tmp_path / "big.jpg"), str(tmp_path / "text.png")])
    one.wait_for_selector("#problem:not([hidden])")
    assert one.locator("#problem").text_content() == "text.png is no image that this browser reads."
    assert one.locator("#images tbody td:nth-child(3)").all_text_contents() == [str(want[0])]


def test_images_in_colour_keep_it(page: Callable[..., Any], tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="the test makes images by Pillow")
    pixels = np.random.default_rng(1).integers(0, 256, (3, 8, 12, 3), np.uint8)
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, one in zip(paths, pixels, strict=True):
        image.fromarray(one).save(path)
    opened = page(model="colour")
    opened.wait_for_function(
        "() => document.getElementById('about').textContent.startsWith('12 x 8 pixels in colour, version ')"
    )
    opened.set_input_files("#file", [str(path) for path in paths])
    opened.wait_for_function("() => document.getElementById('counted').textContent.startsWith('3 of 3 images, ')")
    model = conv_model(shape=(8, 12, 3))
    shown = opened.locator("#images tbody td:nth-child(3)").all_text_contents()
    assert [int(text) for text in shown] == model.predict(pixels).tolist()
    gaps = opened.locator("#images tbody td:nth-child(4)").all_text_contents()
    assert np.allclose([float(text) for text in gaps], model.margins(pixels).gaps, rtol=2e-3)
    draw_one(opened)
    answer(opened)
    opened.select_option("#model", "maps")
    opened.wait_for_function("() => document.getElementById('about').textContent.startsWith('takes 288 values')")


def test_networks_of_other_sizes_and_of_no_images(page: Callable[..., Any]) -> None:
    one = page(model="small")
    one.wait_for_function("() => document.getElementById('about').textContent.startsWith('8 x 8 pixels, version ')")
    draw_one(one)
    answer(one)
    assert seen(one).shape == (8, 8)
    one.select_option("#model", "reals")
    one.wait_for_function(
        "() => document.getElementById('about').textContent.startsWith('takes 64 values, which are no image')"
    )
    assert one.locator("#drawing").is_hidden()
    assert one.locator("#files").is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_width_and_both_schemes(page: Callable[..., Any], width: int, scheme: str) -> None:
    one = page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    draw_one(one)
    answer(one)
    assert one.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    for selector in ("#ink", "#clear", "#model", "#scores", "#drop", "#file"):
        box = one.locator(selector).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    ground, text = (one.evaluate(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color"))
    assert contrast(ground, text) >= 7
    hint = one.evaluate("getComputedStyle(document.querySelector('.hint')).color")
    panel = one.evaluate("getComputedStyle(document.querySelector('section')).backgroundColor")
    assert contrast(panel, hint) >= 4.5
    assert (luminance(ground) < 0.5) == (scheme == "dark")
    artefact(one, f"{scheme}-{width}")


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """WCAG's ratio."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_everything_has_a_name_for_screen_readers(page: Callable[..., Any]) -> None:
    one = page()
    draw_one(one)
    answer(one)
    for role, name in (
        ("combobox", "Network"),
        ("application", "Drawing area"),
        ("button", "Clear"),
        ("checkbox", "Scale and centre as MNIST's digits are"),
        ("checkbox", "Dark on light: turn brightness around"),
        ("heading", "Answer"),
        ("img", "What the network is given"),
        ("table", "Scores of the classes; the highest is the answer, they are no probabilities"),
    ):
        assert one.get_by_role(role, name=name).count() == 1, name
    assert one.get_by_role("rowheader").count() == 10
    assert one.locator("#spoken").get_attribute("aria-live") == "polite"
    assert one.locator("html").get_attribute("lang") == "en"


def test_a_token_is_asked_for(page: Callable[..., Any], tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("secret\n")
    tokens.chmod(0o600)
    server = Running(MNIST, "--token-file", tokens)
    try:
        one = page(server, None)
        one.wait_for_selector("#access:not([hidden])")
        one.get_by_label("This server wants a token").fill("wrong")
        one.keyboard.press("Enter")
        one.wait_for_function("() => document.getElementById('problem').textContent.startsWith('the token is not right')")
        one.get_by_label("This server wants a token").fill("secret")
        one.get_by_role("button", name="Use it").click()
        one.wait_for_selector("#access", state="hidden")
        draw_one(one)
        assert answer(one).startswith("Class 1, gap ")
    finally:
        server.kill()


def test_a_server_that_ended_is_named(page: Callable[..., Any], browser: Any) -> None:
    server = Running(MNIST)
    try:
        context = browser.new_context()
        one = context.new_page()
        one.goto(server.url)
        one.wait_for_function("() => document.getElementById('about').textContent !== ''")
        server.end()
        draw_one(one)
        one.wait_for_selector("#problem:not([hidden])")
        assert one.locator("#problem").text_content() == "The server does not answer."
        context.close()
        page()
    finally:
        server.kill()
