"""What the fork server imports once, so that a killed process is back in a moment.

Its processes encode in float32 alone. Left to itself, each would time bfloat16 for these tiny
models anew and choose by chance, and a vector could no longer be told from that of a text that
differs in one word.
"""

import warnings

warnings.filterwarnings("ignore", message="lancedb fork support", category=RuntimeWarning)
warnings.filterwarnings("ignore", message="lance is not fork-safe", category=UserWarning)

import lance  # noqa: E402, F401
import lancedb  # noqa: E402, F401
import sentence_transformers.sentence_transformer.modules  # noqa: E402, F401
import torch  # noqa: E402
from transformers import BertModel, BertTokenizerFast  # noqa: E402, F401

import lancedb_ft  # noqa: E402
import lancedb_ft.encoder.cache  # noqa: E402
import lancedb_ft.reindex  # noqa: E402
import tests.reindex.actors  # noqa: E402, F401

torch.set_num_threads(1)
lancedb_ft.encoder.cache.choose_precision = lambda *_: "float32"
