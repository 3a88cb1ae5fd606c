"""`nerve`: a server for named-entity recognition and any other token classifier."""

__version__ = "0.1.0"
