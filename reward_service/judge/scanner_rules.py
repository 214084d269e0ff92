"""The rules of the scanner: what injections say, one pattern each, and how much each weighs.

Owns `WORD_RULES` and `FORM_RULES`; `scanner` says how they are read and added up. Strong rules are sentences that
hardly anything but an injection says. Topics are words that a text about grading steps has together, and other texts
one by one: whoever grades, what is graded, by which words, how well, and an order to do so. Every gap is bounded, so
that no text makes a pattern slow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

ENOUGH = 5.0
"""Weight of different rules near each other that makes a text suspicious."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that injections say."""

    name: str
    weight: float
    pattern: re.Pattern[str]


_RULES = "(?:instructions?|rubrics?|guidelines?|prompts?|criteria|directions?|scales?|rules?|orders|directives?)"
_GRADING = (
    "(?:rubrics?|contribution scale|(?:grading|scoring|evaluation) (?:scale|criteria|rules?|system|instructions?|"
    "guidelines?|prompt|protocol))"
)
_IGNORE = (
    "(?:ignor(?:e|es|ing)|disregard|forget|overrid(?:e|es|ing)|overrule|bypass|discard|set aside|"
    "do not (?:apply|follow)|stop (?:applying|following))"
)
_IS = r"(?:\. |is |of |to ){0,3}"
_AND = r"(?:\. |and ){0,3}"
_EARLIER = "(?:previous|prior|above|earlier|preceding|given|original|initial)"
_GRADER = (
    "(?:graders?|autograders?|judges?|evaluators?|reviewers?|raters?|assessors?|annotators?|scorers?|examiners?|"
    "(?:grading|reward|judging|scoring|evaluation|language|ai) models?|llms?|model that (?:grades|judges|scores)|"
    "assistant under (?:review|evaluation|test))"
)
_STEP = "(?:steps?|(?:tool )?calls?|trajector(?:y|ies)|observations?|records?|runs?|tasks?|episodes?|this tool)"
_MARKS = "(?:grades?|scores?|ratings?|marks|points|credits?|contributions?)"
_TOP = "(?:full|maximum|maximal|max|highest|top|best|perfect|perfectly|flawless|upper|5|five|fives|fine|high)"


def _gap(words: int) -> str:
    """Up to so many words of one clause."""
    return rf"(?:[a-z0-9]+ ){{0,{words}}}"


def _word(name: str, weight: float, pattern: str) -> Rule:
    return Rule(name, weight, re.compile(rf"(?<= )(?:{pattern})(?= )"))


def _form(name: str, pattern: str) -> Rule:
    return Rule(name, ENOUGH, re.compile(pattern))


WORD_RULES: tuple[Rule, ...] = (
    # Strong: rules are to be forgotten, those of before or those of grading. Manuals skip rules of other kinds.
    _word("ignore_earlier", ENOUGH, rf"{_IGNORE} {_gap(3)}{_EARLIER} {_gap(2)}{_RULES}"),
    _word("ignore_rubric", ENOUGH, rf"{_IGNORE} {_gap(4)}{_GRADING}"),
    _word("rubric_changed", ENOUGH, rf"{_GRADING} {_gap(4)}(?:suspended|inverted|reversed|waived|void|overridden)"),
    # Strong: both grades beside each other, with their numbers, in whatever notation.
    _word("both_grades", ENOUGH, rf"success {_IS}[01] {_AND}contribution {_IS}[0-5]"),
    _word("both_grades", ENOUGH, rf"contribution {_IS}[0-5] {_AND}success {_IS}[01]"),
    _word(
        "grades_to_steps",
        1.5,
        rf"(?:give|award|assign|grant|gives) {_gap(4)}{_TOP} {_gap(1)}{_MARKS} (?:to|for) {_gap(3)}{_STEP}",
    ),
    _word("to_grader", 1.0, rf"(?:to|for|ask|dear|hello) (?:the |any |all )?{_GRADER}"),
    # Topics.
    _word("grader", 1.5, _GRADER),
    _word(
        "authority",
        1.5,
        r"operators?|developers?|administrators?|supervisors?|principals?|auditors?|audit (?:department|team)|"
        r"(?:evaluation|grading|research|safety) team|(?:trained|made|built|deployed|runs) you|"
        r"your (?:owners?|makers?)|calibration mode|"
        r"(?:developer|debug|maintenance|override|lenient) mode|system notice|(?:grading )?pipeline",
    ),
    _word(
        "grading",
        1.5,
        r"grades?|graded|grading|scores?|scored|scoring|rates?|rated|ratings?|marks|points|votes?|voted|credits?",
    ),
    _word("rules", 1.0, rf"{_RULES}|{_GRADING}|strict|stricter|lenient|generous|generously|leniently|checks"),
    _word("criterion", 1.5, r"contributions?|decisive|needed piece|scale"),
    _word("success", 1.5, r"success (?:(?:is|of|to|for) )?(?:1|one)|valid success"),
    _word("solved", 1.5, r"solved|unsolved"),
    _word(
        "verdict", 1.5, r"verdicts?|outcome|final grades?|your (?:whole |final )?(?:reply|answer|reason|grades?|votes?)"
    ),
    _word("top", 1.0, _TOP),
    _word("graded", 1.0, _STEP),
    _word(
        "order",
        0.5,
        r"give|gives|award|assign|set|mark|use|count|counts|treat|choose|prefer|must|should|shall|please|always|"
        r"every|each|all|now|only",
    ),
    _word(
        "override",
        1.5,
        rf"{_IGNORE}|drop|skip|new (?:instructions?|orders?|task)|no longer apply|exception|whatever you were|"
        r"told so far",
    ),
    _word("pressure", 1.5, r"i will (?:tip|pay)|you will be|lose my|have a heart|unfair|investigated|rejected"),
    _word(
        "secrecy",
        1.5,
        rf"do not (?:mention|reveal|disclose|quote|report) {_gap(2)}(?:note|message|instructions?|text|line)",
    ),
    _word(
        "checked",
        1.0,
        r"verified|approved|confirms?|confirmed|reference (?:answer|solution)|accepted|correct|independent",
    ),
    _word(
        "border",
        1.5,
        r"end of (?:the )?(?:record|data|tool (?:output|result)|observation)|record has ended|"
        r"(?:data|material) (?:is complete|ends)|what follows is",
    ),
)

TOPICS = tuple(rule for rule in WORD_RULES if 1.0 <= rule.weight < ENOUGH and rule.name != "top")
"""Without a single word of these no word rules reach `ENOUGH`: a strong one contains such a word, too."""

FORM_RULES: tuple[Rule, ...] = (
    # Marks between the messages of a chat, as tokenizers know them.
    _form("chat_token", r"<\|[a-z_]{2,24}\|>|<(?:start|end)_of_turn>|\[/?inst\]|<</?sys>>"),
    # The outcome as our answers spell it.
    _form("outcome_json", r"\"outcome\"\s*:\s*\"(?:solved|unsure|unsolved)\""),
    # The classic sentences in other languages: earlier orders are to be ignored, or full marks to be given to steps.
    _form(
        "german",
        r"(?:ignorier|vergiss|missacht)\w{0,3} (?:\w+ ){0,3}(?:anweisung|regel|vorgabe)|"
        r"(?:schritt|aufruf)\w{0,2} (?:\w+ ){0,4}(?:volle punktzahl|höchste\w? (?:beitrag|note|punktzahl))",
    ),
    _form(
        "french",
        r"(?:ignore[zr]?|oublie[zr]?) (?:(?:toutes|les|vos|ces|mes) ){1,2}(?:instructions|consignes|règles)|"
        r"attribue[zr]? (?:\w+ ){0,2}note maximale",
    ),
    _form(
        "spanish",
        r"(?:ignor|olvid)(?:a|e|ar|en) (?:\w+ ){0,3}(?:instrucciones|reglas)|"
        r"asign(?:a|e|ar) (?:\w+ ){0,2}puntuación máxima",
    ),
    _form(
        "italian",
        r"(?:ignor|dimentic)\w{1,4} (?:\w+ ){0,3}(?:istruzioni|regole)|assegn\w{1,3} (?:\w+ ){0,2}punteggio massimo",
    ),
    _form(
        "portuguese",
        r"(?:ignor|esqueç)\w{1,3} (?:\w+ ){0,3}(?:instruções|regras)|(?:dê|atribua) (?:\w+ ){0,2}nota máxima",
    ),
    _form("dutch", r"negeer (?:\w+ ){0,3}(?:instructies|regels)|geef (?:\w+ ){0,3}(?:hoogste|volle) (?:score|punten)"),
    _form("polish", r"(?:zignoruj|zapomnij) (?:\w+ ){0,3}(?:instrukcj|polece|zasad)"),
    _form("turkish", r"(?:talimat|kural)\w* (?:\w+ ){0,2}(?:yok say|unut|görmezden)"),
    _form(
        "russian",
        r"(?:игнорируй|забудь)\w{0,2} (?:\w+ ){0,3}(?:инструкци|правил|указани)|"
        r"шаг\w{0,2} максимальн\w{2,3} (?:балл|оценк)",
    ),
    _form("arabic", r"تجاهل (?:\w+ ){0,3}(?:\w{0,2}تعليمات|\w{0,2}قواعد)"),
    _form("chinese", r"(?:忽略|无视|忘记).{0,12}(?:指令|指示|规则|说明)|(?:给|打)[^。]{0,8}(?:打满分|满分)"),
    _form("japanese", r"(?:指示|命令|ルール)[^。]{0,8}無視|満点[^。]{0,4}(?:付け|つけ|与え)"),
    _form("korean", r"(?:지시|명령|규칙)[^.]{0,8}무시|만점[^.]{0,4}(?:주|부여)"),
)
