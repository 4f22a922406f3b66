"""Binarized networks as an estimator of scikit-learn (extra `sklearn`; `fit` trains in PyTorch, extra `train`).

    from xnorinfer.sklearn import BinaryNetClassifier
    BinaryNetClassifier(random_state=0).fit(X, y).predict(X)

The module is called as the library that it serves; `import sklearn` is that library everywhere, here, too.
"""

from xnorinfer.errors import MissingExtraError

try:
    import sklearn as _sklearn
except ImportError:
    raise MissingExtraError("xnorinfer.sklearn", "scikit-learn", "sklearn") from None
del _sklearn

from xnorinfer.sklearn.estimator import BinaryNetClassifier  # noqa: E402

__all__ = ["BinaryNetClassifier"]
