"""Captions split into words as the scorers of COCO do: PTBTokenizer of Stanford CoreNLP 3.4.1, in lower case, without
punctuation marks. The rules were written from what that tokenizer returns.

They cover what captions hold. On harder texts (telephone numbers, broken markup) the words may differ; a test says on
how many of its lines.
"""

from __future__ import annotations

import re

DROPPED = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", ";"))
"""Tokens that count as punctuation marks, beside rows of dashes and of full stops. `?!` is not among them, and neither
are brackets: the official list has their names in upper case, and tokens are in lower case by then."""

# What one letter or mark becomes before words are looked for.
_REPLACED = str.maketrans(
    {
        "“": '"',
        "”": '"',
        "„": '"',
        "«": '"',
        "»": '"',
        "‘": "'",
        "’": "'",
        "–": " -- ",
        "—": " -- ",
        "…": " ... ",
        "½": " 1/2 ",
        "¼": " 1/4 ",
        "¾": " 3/4 ",
        "£": " # ",
        "€": " $ ",
        "\u00ad": None,  # a soft hyphen
    }
)
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'"}
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_SPLIT_WORDS = {
    "cannot": "can not",
    "gonna": "gon na",
    "gotta": "got ta",
    "wanna": "wan na",
    "lemme": "lem me",
    "gimme": "gim me",
    "more'n": "more 'n",
    "'tis": "'t is",
    "'twas": "'t was",
    "y'all": "y' all",
    "y'know": "y' know",
}
# Words that keep the full stop behind them.
_ABBREVIATIONS = (
    "mr|mrs|ms|dr|st|ave|blvd|rd|etc|inc|corp|ltd|jr|sr|vs|gov|sgt|lt|col|gen|capt|cpl|maj|rev|hon|prof|sen|rep|jan|feb|"
    "apr|aug|sept?|oct|nov|dec|mon|tues?|wed|thurs?|fri|ft|mt|messrs|bros|ph\\.d"
)
_LETTER = r"[^\W\d_]"
_SUFFIX = r"'(?:s|m|d|ll|re|ve)(?!\w)"
_TOKEN = re.compile(
    "|".join(
        (
            r"https?://[^\s\"<>|()]+|www\.[\w.-]+\w(?:/[^\s\"<>|()]*)?",
            r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
            r"</?[a-z][^\s<>]*>",
            r"-[lr][rsc]b-",
            r"[@#][a-z_]\w*",
            r"'t(?:is|was)\b",
            r"'(?:em|cause|n'|n)(?!\w)|'\d\ds\b",
            _SUFFIX,
            r"n't(?!\w)",
            r"n`t(?!\w)",
            rf"(?:{_ABBREVIATIONS})\.(?!\w)",
            r"no\.(?=\s*\d)",
            rf"(?<![\w']){_LETTER}\.(?:{_LETTER}\.)*(?!\w)",  # u.s.a., and an initial alone
            r"[a-z]+\+\+|[a-z]#(?!\w)",
            r"(?:[a-z]&)+[a-z](?!\w)(?<=[a-z]&[a-z])(?<!a&b)|at&t",
            rf"(?:c'mon|[do]'{_LETTER}{{2,}}|l'{_LETTER}+|ma'am|ne'er|s'mores|d'ye)(?!\w)",
            r"\d+(?:-[^\W\d_]+)+(?!\w)",  # 7-eleven
            r"\w[?!]\w",
            r"[:;=]-?[()]",
            r"(?<![\w.])[-+]?\d+(?:[.,:/-]\d+)+(?=(?:am|pm)\b|(?!\w))",
            r"(?<!\w)[-+]?\.?\d+(?:[.,:]\d+)*(?!\w)|\.\d+(?:\.\d+)*",
            r"(?:cannot|gonna|gotta|wanna|lemme|gimme|more'n|y'all|y'know)(?!\w)",
            # a word before its n't
            rf"{_LETTER}+(?=n't(?!\w)|n`t(?!\w))",
            # letters and digits, joined by hyphens, full stops or slashes
            r"\w+(?:[-./]\w+)*(?:-\w+)*",
            r"\?[?!]*[?!]|![?!]*[?!]",
            r"-{2,}|\.{2,}|``|''",
            r"\S",
        )
    )
)
_DASHES_OR_DOTS = re.compile(r"-{2,}|\.{2,}")
_UNKNOWN = re.compile(r"[\x00-\x1f\x7f\U00010000-\U0010ffff\u200b-\u200f\u2600-\u27bf\ufe0f\ufeff]")
"""Emoji and invisible marks: left out, and a word ends there."""


def ptb_tokens(caption: str) -> list[str]:
    """The words of a caption, in lower case.

    White space of any kind only separates: the official program reads captions as lines, and a caption with a carriage
    return or a line separator moves all later captions to the wrong image.
    """
    text = " ".join(_UNKNOWN.sub(" ", caption.translate(_REPLACED)).split()).lower()
    for entity, character in _ENTITIES.items():
        text = text.replace(entity, character)
    found = []
    for token in _TOKEN.findall(text):
        if not _DASHES_OR_DOTS.fullmatch(token):
            token = "".join(_BRACKETS.get(character, character) for character in token)
            found += _SPLIT_WORDS.get(token, token).split(" ")
    return [token for token in found if token not in DROPPED and token != '"']
