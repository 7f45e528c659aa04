# What `rmtland.nets` offers; lazy_loader reads this file, type checkers too.
from .architectures import mlp as mlp
from .datasets import Dataset as Dataset
from .datasets import load_dataset as load_dataset
from .distributed import DistributedSource as DistributedSource
from .distributed import RankError as RankError
from .distributed import rank_range as rank_range
from .distributed import shard as shard
from .gradients import NetworkLogitGradients as NetworkLogitGradients
from .second_derivatives import hessian as hessian
from .second_derivatives import logit_curvature as logit_curvature
from .training import train as train
from .training import training_stages as training_stages
