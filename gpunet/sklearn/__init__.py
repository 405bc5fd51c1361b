"""scikit-learn estimators: classifiers and a regressor by gpunet's models, and the features of a CNN as a transformer.

>>> from gpunet.sklearn import MLPClassifier, MLPRegressor
>>> from sklearn.datasets import load_wine
>>> X, y = load_wine(return_X_y=True)
>>> MLPClassifier(max_iter=30, random_state=0, device="cpu").fit(X, y).score(X, y) > 0.9  # doctest: +SKIP
True

They take scikit-learn's names of parameters and attributes where these exist, and work in pipelines, searches and
pickles.
"""

from gpunet.sklearn.cnn import CNNClassifier, CNNFeatures, HybridClassifier
from gpunet.sklearn.mlp import MLPClassifier, MLPRegressor

__all__ = ["CNNClassifier", "CNNFeatures", "HybridClassifier", "MLPClassifier", "MLPRegressor"]
