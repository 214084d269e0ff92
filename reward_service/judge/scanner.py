"""The rule check: does a text speak to the judge instead of to the assistant?

Owns `scan`. Pure. A text is read in several views (`views` undoes disguises). In each view every rule looks for one
thing that injections say; the weights of different rules that speak close to each other are added up. A few words are
ordinary language: reviews have scores, manuals have instructions.

Word rules read lower-case words with single spaces, in which ` . ` stands for any end of a clause. Form rules read the
text itself, in lower case.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator

from reward_service.judge.scanner_rules import ENOUGH, FORM_RULES, TOPICS, WORD_RULES, Rule
from reward_service.judge.views import latin, plain, views

NEAR_CHARACTERS = 200
"""Between the first and the last hit that speak together."""
_LONGEST_WORD = 24
_CLAUSE_END = re.compile(r"[.!?:;\n\r|\"<>{}()\[\]]+")
_NO_WORD = re.compile(r"[^a-z0-9.]+")
_Hit = tuple[int, Rule]


def scan(text: str) -> tuple[str, ...]:
    """Names of the rules that make `text` suspicious, sorted; empty where it is not."""
    spellings = views(text)
    found: set[str] = set()
    # Most views differ in nothing that these two forms keep.
    for words in {_words(view) for view in spellings}:
        if any(map(_speaks, words.split())):
            found |= _suspicious(list(_hits(words, WORD_RULES)))
    for form in {plain(view) for view in spellings}:
        found |= _suspicious(list(_hits(form, FORM_RULES)))
    return tuple(sorted(found))


def rules_text() -> str:
    """All rules as text, for the fingerprint of a judge."""
    rules = [(rule.name, rule.weight, rule.pattern.pattern) for rule in (*WORD_RULES, *FORM_RULES)]
    return json.dumps([ENOUGH, NEAR_CHARACTERS, rules])


@functools.lru_cache(maxsize=1 << 15)
def _speaks(word: str) -> bool:
    """Whether `word` alone is one of a topic. Without such a word no text is suspicious, and few texts have one.

    Most views of a text are no language at all (it is read backwards, for one); this spares them the rules.
    """
    return len(word) <= _LONGEST_WORD and any(rule.pattern.search(f" {word} ") for rule in TOPICS)


def _words(text: str) -> str:
    clauses = _CLAUSE_END.sub(" . ", latin(text))
    return f" {_NO_WORD.sub(' ', clauses)} "


def _hits(text: str, rules: tuple[Rule, ...]) -> Iterator[_Hit]:
    for rule in rules:
        for match in rule.pattern.finditer(text):
            yield match.start(), rule


def _suspicious(hits: list[_Hit]) -> set[str]:
    """Names of rules that together, and near each other, weigh enough."""
    found: set[str] = set()
    hits.sort(key=lambda hit: hit[0])
    start = 0
    for end, (position, _) in enumerate(hits):
        while position - hits[start][0] > NEAR_CHARACTERS:
            start += 1
        weights = {rule.name: rule.weight for _, rule in hits[start : end + 1]}
        if sum(weights.values()) >= ENOUGH:
            found |= weights.keys()
    return found
