"""A base small enough to be made in a moment: a random BERT with a real tokeniser for English and Chinese.

It knows no language. Tests and `luban doctor` use it to go the whole way round in seconds, without the network.
"""

from __future__ import annotations

import json
import string
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from luban import files
from luban.models.facts import CONFIG, TOKENIZER, WEIGHTS, BaseFolder, describe

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_DEFAULT_LAYERS, _DEFAULT_WIDTH = 2, 32


def make(
    folder: Path,
    texts: Sequence[str] = (),
    *,
    seed: int = 0,
    layers: int = _DEFAULT_LAYERS,
    width: int = _DEFAULT_WIDTH,
    heads: int = 4,
    max_length: int = 64,
    vocabulary: int = 2000,
) -> BaseFolder:
    """Make a tiny random base in a folder that is not there yet; equal arguments give equal bytes.

    Args:
        folder: where it will be.
        texts: their frequent words become tokens of their own; all other words are spelled, a character a token.
        seed: start of the random weights.
        layers: how many layers the body has.
        width: numbers in a token's vector; a multiple of `heads`.
        heads: attention heads a layer.
        max_length: longest window in tokens.
        vocabulary: most words taken from the texts.
    """
    tokenizer = _tokenizer(texts, vocabulary)
    tokens = json.loads(tokenizer)["model"]["vocab"]
    config = {
        "architectures": ["BertModel"], "model_type": "bert", "vocab_size": len(tokens), "hidden_size": width,
        "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": 4 * width, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "max_position_embeddings": max_length,
        "type_vocab_size": 2, "initializer_range": 0.02, "layer_norm_eps": 1e-12, "pad_token_id": 0,
        "position_embedding_type": "absolute",
    }  # fmt: skip
    with files.new_folder(folder) as made:
        _save(made / WEIGHTS, _weights(len(tokens), layers, width, max_length, seed))
        (made / TOKENIZER).write_text(tokenizer, "utf-8")
        (made / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        files.seal(made, {"kind": "base", "name": "tiny"})
    return BaseFolder(folder, describe(folder, "tiny"))


def characters() -> list[str]:
    """Return the characters that the vocabulary always has: printable ASCII, common Chinese ones, their punctuation."""
    # GB 2312 orders its 3755 most frequent characters by sound, in rows 16 to 55; 0xA0 is added to row and column.
    common = bytes(byte for row in range(16, 56) for column in range(1, 95) for byte in (row + 0xA0, column + 0xA0))
    chinese = [char for char in common.decode("gb2312", "ignore") if "\u4e00" <= char <= "\u9fff"]
    ascii_ = string.digits + string.ascii_lowercase + string.punctuation
    return [*ascii_, *"，。！？：；、“”‘’（）《》…—￥·", *chinese]


def _tokenizer(texts: Sequence[str], vocabulary: int) -> str:
    """Return tokenizer.json: WordPiece over lower-case text, Chinese characters apart."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    single = characters()
    pieces = [*SPECIAL, *single, *(f"##{char}" for char in string.digits + string.ascii_lowercase)]
    known = set(pieces)
    pieces += [word for word in _words(texts)[:vocabulary] if word not in known]
    made = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.add_special_tokens(list(SPECIAL))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", SPECIAL.index("[CLS]")), ("[SEP]", SPECIAL.index("[SEP]"))],
    )
    return str(made.to_str())


def _words(texts: Sequence[str]) -> list[str]:
    """Return the words that occur more than once, the most frequent first.

    The trainers of `tokenizers` break ties of frequency at random, and small texts are full of ties.
    """
    from tokenizers import normalizers, pre_tokenizers

    normalise, cut = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    counts = Counter(word for text in texts for word, _ in cut.pre_tokenize_str(normalise.normalize_str(text)))
    return sorted((word for word, count in counts.items() if count > 1), key=lambda word: (-counts[word], word))


def _weights(tokens: int, layers: int, width: int, positions: int, seed: int) -> dict[str, np.ndarray]:
    """Return random weights of a BertModel.

    Matrices have the scale 1/sqrt(width) rather than BERT's 0.02, which at this width would leave every text's vector
    nearly the same: with it, a head learns simple texts even where the body is frozen.
    """
    random = np.random.default_rng(seed)
    inner = 4 * width

    def matrix(rows: int, columns: int) -> np.ndarray:
        drawn: np.ndarray = (random.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)
        return drawn

    def linear(name: str, rows: int, columns: int) -> dict[str, np.ndarray]:
        return {f"{name}.weight": matrix(rows, columns), f"{name}.bias": np.zeros(rows, np.float32)}

    def norm(name: str) -> dict[str, np.ndarray]:
        return {f"{name}.weight": np.ones(width, np.float32), f"{name}.bias": np.zeros(width, np.float32)}

    weights = {
        "embeddings.word_embeddings.weight": matrix(tokens, width),
        # Small beside the words: where a word stands says little about a short text.
        "embeddings.position_embeddings.weight": 0.1 * matrix(positions, width),
        "embeddings.token_type_embeddings.weight": np.zeros((2, width), np.float32),
        **norm("embeddings.LayerNorm"),
    }
    for layer in range(layers):
        at = f"encoder.layer.{layer}"
        for name in ("query", "key", "value"):
            weights |= linear(f"{at}.attention.self.{name}", width, width)
        weights |= linear(f"{at}.attention.output.dense", width, width) | norm(f"{at}.attention.output.LayerNorm")
        weights |= linear(f"{at}.intermediate.dense", inner, width)
        weights |= linear(f"{at}.output.dense", width, inner) | norm(f"{at}.output.LayerNorm")
    return weights


def _save(path: Path, weights: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(0o644)
