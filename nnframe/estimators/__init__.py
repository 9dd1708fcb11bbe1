"""Networks as estimators of scikit-learn (an extra: `pip install nnframe[sklearn]`)."""

try:
    import sklearn as _sklearn  # noqa: F401
except ImportError as error:
    raise ImportError("nnframe.estimators needs scikit-learn: pip install nnframe[sklearn]") from error

from nnframe.estimators.classifier import NNClassifier
from nnframe.estimators.regressor import NNRegressor

__all__ = ["NNClassifier", "NNRegressor"]
