"""Models: each a pair of pure functions, `init` and `apply`, of the settings that a person chose.

`init(rng, shape, num_outputs)`, with the shape of one example, gives float32 parameters; `apply(params,
features)` gives outputs of shape `(batch, num_outputs)` for features of shape `(batch, *shape)`. They are
written against the array API standard, so that one definition trains under JAX and predicts under NumPy,
and neither the coordinator nor the command line needs JAX. To add a model: write its class, add it to
`Model`.

    linear.py        linear and logistic regression, Cox's proportional hazards
    perceptron.py    fully connected layers
    convolution.py   a small convolutional network, for images
    own.py           a user's own pair of functions
    kinds.py         which models there are
    targets.py       kinds of target
    prediction.py    from outputs to what people read
"""

from workers.models.convolution import ConvolutionalNetwork
from workers.models.kinds import Model
from workers.models.linear import Cox, LinearRegression, LogisticRegression
from workers.models.own import OwnModel
from workers.models.perceptron import MultilayerPerceptron
from workers.models.prediction import predictions
from workers.models.targets import Shape, TargetKind

__all__ = [
    "ConvolutionalNetwork",
    "Cox",
    "LinearRegression",
    "LogisticRegression",
    "Model",
    "MultilayerPerceptron",
    "OwnModel",
    "Shape",
    "TargetKind",
    "predictions",
]
