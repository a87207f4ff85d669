"""The tokenizer: whole words of names and keywords, and pieces of words for everything else
(WordPiece).
"""

import string

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from training.captions import Subject


START, END, UNKNOWN = "<|start|>", "<|end|>", "<|unknown|>"
LENGTH = 12
LETTERS = string.ascii_lowercase + string.digits


def build_vocabulary(subjects: list[Subject], more: list[str]) -> dict[str, int]:
    """Word to number: the names' words first (sorted), then other words, then single letters as
    word pieces.

    This order keeps the numbers of the names' words when keywords are added, so embeddings can be
    carried over."""
    named = sorted({w for s in subjects for w in s.name.split()})
    others = {w for s in subjects for text in (s.short_name, *s.keywords) for w in text.split()}
    others |= {w for text in more for w in text.split()}
    pieces = [
        *LETTERS,
        *("##" + letter for letter in LETTERS),
        "##s",
        "##es",
        "##ing",
        "##ed",
        "##er",
        "##y",
    ]
    tokens = [START, END, UNKNOWN, *named, *sorted(others), *pieces]
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}


def build_tokenizer(vocabulary: dict[str, int]) -> PreTrainedTokenizerFast:
    """A tokenizer of 12 tokens with CLIP's start and end, padded with the end token."""
    rules = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN, max_input_chars_per_word=40))
    rules.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(Regex("[-_,;/]"), " "),
            normalizers.Replace(Regex("[^a-z0-9 ]"), ""),
        ]
    )
    rules.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(START, vocabulary[START]), (END, vocabulary[END])]
    rules.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=ends
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=rules,
        bos_token=START,
        eos_token=END,
        unk_token=UNKNOWN,
        pad_token=END,
        model_max_length=LENGTH,
    )


def relatives(word: str, subjects: list[Subject]) -> set[str]:
    """Words of names whose images have `word` among their keywords: where a new word's
    embedding starts from.
    """
    return {
        w for s in subjects if any(word in k.split() for k in s.keywords) for w in s.name.split()
    }
