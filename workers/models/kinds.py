"""Which models there are; `kind` chooses one."""

from typing import Annotated, TypeAlias

from pydantic import Field

from workers.models.convolution import ConvolutionalNetwork
from workers.models.linear import Cox, LinearRegression, LogisticRegression
from workers.models.own import OwnModel
from workers.models.perceptron import MultilayerPerceptron

Model: TypeAlias = Annotated[
    LinearRegression | LogisticRegression | Cox | MultilayerPerceptron | ConvolutionalNetwork | OwnModel,
    Field(discriminator="kind"),
]
