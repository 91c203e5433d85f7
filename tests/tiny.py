"""A real, tiny, randomly initialised sentence-transformers model: loads in milliseconds."""

from pathlib import Path

TEXTS = (
    "the quick brown fox jumps over the lazy dog",
    "how do I cancel my order and get the money back",
    "doc number one two three four five six seven eight nine zero",
    "open the settings page and choose a new password",
)


def tiny_model(path, dims=16, seed=0, texts=TEXTS, max_tokens=64, n_layers=1):
    """Write a BERT with its own word-piece vocabulary; return the folder as str."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,?!'-_()"
    words = sorted({word for text in texts for word in text.lower().split()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    vocabulary += [f"##{letter}" for letter in letters] + [w for w in words if len(w) > 1]
    source = Path(path) / "source"
    source.mkdir(parents=True)
    ids = {token: number for number, token in enumerate(dict.fromkeys(vocabulary))}
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(ids),
        hidden_size=dims,
        num_hidden_layers=n_layers,
        num_attention_heads=2,
        intermediate_size=2 * dims,
        max_position_embeddings=max_tokens,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(source, safe_serialization=True)
    # transformers 5 ignores vocab_file= without a word, and every text becomes [UNK] [UNK] ...
    BertTokenizerFast(vocab=ids, do_lower_case=True).save_pretrained(source)
    model = SentenceTransformer(
        modules=[
            Transformer(str(source), max_seq_length=max_tokens),
            Pooling(dims, pooling_mode="mean"),
            Normalize(),
        ],
        device="cpu",
    )
    folder = Path(path) / "model"
    model.save_pretrained(str(folder), create_model_card=False)
    return str(folder)
