"""The actions that plans are made of: one file for each kind of action, with the handler that carries it out."""

from .action import HANDLERS, Action, ActionHandler
from .attention_scope import AttentionScope
from .blocks import Blocks, ModifiedBlockHandler
from .control_residuals import ControlResiduals
from .divide import DivideHeads, DivideSequences, DivideTokens, FunctionHandler
from .gather import Gather
from .halo import Halo
from .key_mask import KeyMask
from .local_argument import LocalArgument
from .replicate import Replicate
from .split import Split, SplitJoint
from .unsplit import Unsplit

__all__ = [
    "HANDLERS",
    "Action",
    "ActionHandler",
    "AttentionScope",
    "Blocks",
    "ControlResiduals",
    "DivideHeads",
    "DivideSequences",
    "DivideTokens",
    "FunctionHandler",
    "Gather",
    "Halo",
    "KeyMask",
    "LocalArgument",
    "ModifiedBlockHandler",
    "Replicate",
    "Split",
    "SplitJoint",
    "Unsplit",
]
