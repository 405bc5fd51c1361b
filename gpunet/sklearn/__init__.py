"""scikit-learn estimators: classifiers and a regressor by gpunet's models, and the features of a CNN as a transformer.

They take scikit-learn's names of parameters and attributes where these exist, and work in pipelines, searches and
pickles.

>>> from gpunet.sklearn import MLPClassifier
>>> from sklearn.datasets import load_wine
>>> X, y = load_wine(return_X_y=True)
>>> MLPClassifier(max_iter=500, tol=0.01, random_state=0).fit(X, y).score(X, y) > 0.9
True
"""

from gpunet.sklearn.cnn import CNNClassifier, CNNFeatures, HybridClassifier
from gpunet.sklearn.mlp import MLPClassifier, MLPRegressor

__all__ = ["CNNClassifier", "CNNFeatures", "HybridClassifier", "MLPClassifier", "MLPRegressor"]
