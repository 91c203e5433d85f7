"""A static student: one vector a token, a text is the mean of its tokens.

1. Each token of the texts gets the teacher's vector for it, weighted down the more frequent it
   is: what model2vec does (https://github.com/MinishLab/model2vec), with the smooth inverse
   frequency of Arora, Liang and Ma, "A Simple but Tough-to-Beat Baseline for Sentence
   Embeddings", ICLR 2017, taken from the texts themselves. A token that they do not have gets
   what a linear map of the network's input vectors gives, fitted on those they have.
2. Before it is normalised the mean is linear in the table, so the table that comes nearest to the
   teacher's vectors of the texts is a least-squares problem: one linear map for all tokens, then
   ridge regression towards it for each token that was seen.
3. A few epochs tell the right vector from the others of a large batch. With pairs, a query's vector
   from the documents of the others; without, a text's vector from the teacher's for the others.

tldr (30,746 documents, 20,958 training queries), all-MiniLM-L6-v2 as it comes as the teacher,
nDCG@10 on 2,041 dev queries: teacher .369; after 1. .242, the map .279, the ridge .294; after 3.
without pairs .309, with pairs .378. On 2,565 test queries: teacher .385, student with pairs .390.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lancedb_ft.encoder import Encoder
from lancedb_ft.encoder.bags import BagTokenizer
from lancedb_ft.errors import InputError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = [
    "SMOOTHING",
    "TokenTable",
    "bags_of",
    "contrast",
    "input_vectors",
    "regress",
    "static_model",
]

Floats: TypeAlias = "npt.NDArray[np.float32]"
#: A scipy.sparse.csr_matrix, which has no types.
Bags: TypeAlias = Any

#: a of a / (a + p), p the token's share of all tokens. nDCG@10 on tldr after step 1: 1e-2 .209,
#: 1e-3 .242, 1e-4 .204.
SMOOTHING = 1e-3
#: Ridge towards the vectors of step 1; each text counts 1. On tldr after step 2: .3 .291, .1 .294,
#: .03 .295.
RIDGE = 0.1
_ITERATIONS = 20
#: Similarities are divided by it before the softmax. On tldr after step 3: .1 .341, .05 .375,
#: .03 .376 (learning rates of their own).
TEMPERATURE = 0.03


def bags_of(tokenizer: BagTokenizer, texts: Sequence[str], n_tokens: int) -> Bags:
    """Return the share of each token in each text, shape ``(len(texts), n_tokens)``, sparse."""
    from scipy.sparse import csr_matrix

    ids, lengths = tokenizer.ids(texts)
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    shares = np.repeat(1 / np.maximum(lengths, 1), lengths).astype(np.float32)
    bags = csr_matrix((shares, ids, ends), shape=(len(texts), n_tokens))
    bags.sum_duplicates()
    return bags


def static_model(teacher: SentenceTransformer, dims: int) -> SentenceTransformer:
    """Return a static model with the teacher's tokenizer and a table of zeros.

    Raises
    ------
    InputError
        The teacher has no fast tokenizer.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

    source: Any = getattr(teacher[0], "tokenizer", None)
    backend = getattr(source, "backend_tokenizer", None)
    if backend is None:
        raise InputError(
            "A static student takes over the teacher's tokenizer, and this teacher has no fast "
            "one (of the library tokenizers). Choose another teacher, or student='layers:N'."
        )
    tokenizer = type(backend).from_str(backend.to_str())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    size = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
    embedding = StaticEmbedding(tokenizer, embedding_weights=torch.zeros(size, dims))
    return SentenceTransformer(modules=[embedding, Normalize()], device="cpu")


class TokenTable:
    """The vectors of the tokens, as they are learned.

    Parameters
    ----------
    student
        Made by `static_model`; its table is written.
    teacher
        Embeds every token of the texts once.
    inputs
        The vectors of the tokens before the teacher's first layer, shape ``(tokens, width)``.
    project
        From the teacher's vectors to the student's dims.
    bags
        Of all texts, see `bags_of`.
    """

    def __init__(
        self,
        student: SentenceTransformer,
        teacher: Encoder,
        inputs: Floats,
        project: Callable[[Floats], Floats],
        bags: Bags,
    ) -> None:
        self._student = student
        self.bags = bags
        counts = np.asarray(bags.astype(bool).sum(axis=0)).ravel()
        vectors = project(_token_vectors(student, teacher, inputs, np.flatnonzero(counts)))
        share = counts / max(counts.sum(), 1)
        self.write((vectors * (SMOOTHING / (SMOOTHING + share))[:, None]).astype(np.float32))

    @property
    def vectors(self) -> Floats:
        """Shape ``(tokens, dims)``, a copy."""
        embedding: Any = self._student[0].embedding
        return np.array(embedding.weight.detach().numpy())

    def write(self, vectors: Floats) -> None:
        """Replace all vectors."""
        import torch

        embedding: Any = self._student[0].embedding
        with torch.no_grad():
            embedding.weight.copy_(torch.from_numpy(vectors))


def _token_vectors(
    student: SentenceTransformer, teacher: Encoder, inputs: Floats, seen: npt.NDArray[np.int64]
) -> Floats:
    """Return the teacher's vector for each token, or an estimate for those not seen."""
    embedding: Any = student[0]
    texts = [
        embedding.tokenizer.decode([number], skip_special_tokens=True).removeprefix("##")
        for number in seen.tolist()
    ]
    made = teacher.encode([text.replace("\ufffd", "") for text in texts])
    found: Floats = np.array(made.values, np.float32).reshape(len(texts), -1)
    told = np.asarray(made.is_valid())  # not of a token that is no text of its own
    found[~told] = 0
    vectors = np.zeros((embedding.num_embeddings, found.shape[1]), np.float32)
    n_known = min(len(inputs), len(vectors))  # a tokenizer may have more tokens than the network
    known = seen[told & (seen < n_known)]
    gram = inputs[known].T @ inputs[known] + np.eye(inputs.shape[1], dtype=np.float32)
    estimate = np.linalg.solve(gram, inputs[known].T @ found[told & (seen < n_known)])
    vectors[:n_known] = inputs[:n_known] @ estimate
    vectors[seen] = found
    return vectors


def input_vectors(teacher: SentenceTransformer) -> Floats:
    """Return the vectors of a network's tokens before its first layer."""
    network: Any = teacher[0].auto_model
    weight = network.get_input_embeddings().weight
    return np.array(weight.detach().float().cpu().numpy())


def regress(table: TokenTable, targets: Floats) -> None:
    """Bring the means of the tokens as near to the teacher's vectors as a table can.

    Parameters
    ----------
    table
        Its bags are those of the texts with these targets, in order.
    targets
        Shape ``(texts, dims)``, of length 1.
    """
    start = table.vectors
    means = table.bags @ start
    gram = means.T @ means + 1e-3 * np.eye(means.shape[1], dtype=np.float32)
    # One map for all tokens moves the unseen along with the seen.
    start = (start @ np.linalg.solve(gram, means.T @ targets)).astype(np.float32)
    seen = np.flatnonzero(np.diff(table.bags.tocsc().indptr))
    start[seen] += _ridge(table.bags[:, seen], targets - table.bags @ start)
    table.write(start)


def _ridge(bags: Bags, residual: Floats) -> Floats:
    """Solve ``min |bags x - residual|^2 + RIDGE |x|^2`` for all dims at once.

    By conjugate gradients: the table is too large to factorise, and each step is two sparse
    products.
    """
    gradient = bags.T @ residual
    found: Floats = np.zeros_like(gradient)
    direction = gradient.copy()
    norms = (gradient**2).sum(axis=0)
    for _ in range(_ITERATIONS):
        image = bags.T @ (bags @ direction) + np.float32(RIDGE) * direction
        step = norms / np.maximum((direction * image).sum(axis=0), 1e-12)
        found += step * direction
        gradient -= step * image
        left = (gradient**2).sum(axis=0)
        direction = gradient + direction * (left / np.maximum(norms, 1e-12))
        norms = left
    return found


def contrast(
    table: TokenTable,
    rows: npt.NDArray[np.int64],
    targets: Floats | None,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    after_epoch: Callable[[int], None],
    progress: Callable[[int], None],
) -> None:
    """Learn to tell what belongs to a text from what belongs to the others of its batch.

    Parameters
    ----------
    table
        Started by `regress`.
    rows
        Shape ``(n, 2)``: rows of the bags that belong together; of texts alone both are the same.
    targets
        None: the second of each row is embedded by the student, too. Else the teacher's vector for
        each bag, which stays.
    learning_rate
        As a share of the table's root mean square, for Adam; it falls to 0 linearly.
    after_epoch
        Called as ``after_epoch(epoch)``, from 1, with the table written.
    progress
        Called with the number of rows done.
    """
    import torch

    used = np.flatnonzero(np.diff(table.bags.tocsc().indptr))
    bags = table.bags[:, used]
    whole = table.vectors
    weight = torch.nn.Parameter(torch.from_numpy(whole[used]))
    rate = learning_rate * float(weight.detach().square().mean().sqrt())
    optimizer = torch.optim.Adam([weight], lr=rate, betas=(0.9, 0.99))
    dice = np.random.default_rng(seed)
    n_batches = -(-len(rows) // batch_size)
    for epoch in range(epochs):
        order = dice.permutation(len(rows))
        for number, batch in enumerate(np.array_split(order, n_batches)):
            left = 1 - (epoch * n_batches + number) / (epochs * n_batches)
            optimizer.param_groups[0]["lr"] = rate * left
            loss = _loss(weight, bags, rows[batch], targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            progress(len(batch))
        whole[used] = weight.detach().numpy()
        table.write(whole)
        after_epoch(epoch + 1)


def _loss(weight: Any, bags: Bags, rows: Any, targets: Floats | None) -> Any:
    import torch
    from torch.nn.functional import cross_entropy, normalize

    def embed(places: Any) -> Any:
        part = bags[places]
        ids, starts = (torch.from_numpy(a.astype(np.int64)) for a in (part.indices, part.indptr))
        shares = torch.from_numpy(part.data)
        summed = torch.nn.functional.embedding_bag(
            ids, weight, starts[:-1], mode="sum", per_sample_weights=shares
        )
        return normalize(summed, dim=1)

    first, second = torch.from_numpy(rows[:, 0]), torch.from_numpy(rows[:, 1])
    one = embed(rows[:, 0])
    other = embed(rows[:, 1]) if targets is None else torch.from_numpy(targets[rows[:, 1]])
    scores = one @ other.T / TEMPERATURE
    # A text that stands in the batch twice is no negative of its own.
    same = (first[:, None] == first) | (second[:, None] == second)
    same.fill_diagonal_(False)
    scores = scores.masked_fill(same, float("-inf"))
    right = torch.arange(len(rows))
    return (cross_entropy(scores, right) + cross_entropy(scores.T, right)) / 2
