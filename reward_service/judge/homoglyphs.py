"""Letters that look like Latin ones: those with which words are disguised, and digits read as letters.

What Unicode itself calls compatible (full-width, mathematical, circled letters) is not here: normalisation does those.
"""

from __future__ import annotations

_LOOK_ALIKES = {
    "a": "аɑαа",
    "b": "ЬƄ",
    "c": "сϲⅽ",
    "d": "ԁɗ",
    "e": "еєҽ℮ε",
    "g": "ɡց",
    "h": "һհ",
    "i": "іɩιıӏ",
    "j": "јϳ",
    "k": "кκ",
    "l": "ⅼӏǀ",
    "m": "мⅿ",
    "n": "ոпη",
    "o": "оοσօ",
    "p": "рρ",
    "q": "ԛգ",
    "r": "гᴦ",
    "s": "ѕꜱ",
    "t": "тτ",
    "u": "υսц",
    "v": "ѵνⅴ",
    "w": "ԝшω",
    "x": "хχⅹ",
    "y": "уγү",
    "z": "ᴢ",
    "A": "АΑ",
    "B": "ВΒ",
    "C": "СϹ",
    "E": "ЕΕ",
    "H": "НΗ",
    "I": "ІΙ",
    "J": "Ј",
    "K": "КΚ",
    "M": "МΜ",
    "N": "Ν",
    "O": "ОΟ",
    "P": "РΡ",
    "S": "Ѕ",
    "T": "ТΤ",
    "X": "ХΧ",
    "Y": "УΥ",
    "Z": "Ζ",
}
HOMOGLYPHS = {ord(twin): latin for latin, twins in _LOOK_ALIKES.items() for twin in twins}
"""For `str.translate`."""
LEET = str.maketrans({"0": "o", "1": "i", "3": "e", "4": "a", "5": "s", "7": "t", "@": "a", "$": "s", "!": "i"})
"""For `str.translate`."""
