"""The words that ledger worlds are made of. Short and common, so that each costs a small model one or two tokens."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


PEOPLE = _words(
    """
    adam alan alma amy anna ben beth bob carl clara dan dave diana ella emma eric eva fred gina greg hugo ida ivan
    jack jane jim joan john julia karl kate kim lena leo lily lisa luke mark mary max mia nick nina noah nora olga
    oscar otto paul peter rita rosa ruth sam sara sofia tom vera victor
    """
)
ITEMS = _words(
    """
    apron bag ball basket bell belt bench bike blanket boat book boot bottle bowl box brush bucket cage camera
    candle carpet chair chess clock coat cup curtain desk doll door drum fan flag flute fork frame glove guitar
    hammer hat kettle kite knife ladder lamp lock map mirror mug needle oven pan pen piano pillow pipe plate pot
    radio ring rope rug scarf shelf shirt shoe soap sofa spoon stove table tent towel toy vase violin wheel
    """
)
EVENTS = _words(
    """
    ballet banquet bazaar bingo brunch carnival circus class concert contest council debate derby dinner drill fair
    feast festival gala game hearing hike lecture lesson lunch march match meeting opera parade party picnic play
    quiz race rally recital regatta retreat review seminar show summit tour training trial walk wedding workshop
    """
)
CITIES = _words(
    """
    athens austin berlin bern boston cairo chicago dallas delhi denver dublin geneva hanoi houston kyoto lagos lima
    lisbon london lyon madrid miami milan moscow munich naples nice osaka oslo oxford paris perth porto prague
    quebec reno rome seoul sofia sydney tokyo toronto turin venice vienna warsaw york zurich
    """
)
COLORS = _words(
    """
    beige black blue brown gold gray green orange pink purple red silver white yellow
    """
)

ORDER_LETTERS = "ABCDEFGH"
ACCOUNT_LETTERS = "PQRSTUVW"
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MONTHS = (
    ("january", 31),
    ("february", 28),
    ("march", 31),
    ("april", 30),
    ("may", 31),
    ("june", 30),
    ("july", 31),
    ("august", 31),
    ("september", 30),
    ("october", 31),
    ("november", 30),
    ("december", 31),
)
"""Name and number of days."""


def _numbered(letters: str) -> tuple[str, ...]:
    return tuple(f"{letter}{number}" for letter in letters for number in range(10, 100))


ORDERS = _numbered(ORDER_LETTERS)
ACCOUNTS = _numbered(ACCOUNT_LETTERS)

POOLS: dict[str, tuple[str, ...]] = {
    "person": PEOPLE,
    "item": ITEMS,
    "order": ORDERS,
    "event": EVENTS,
    "account": ACCOUNTS,
    "city": tuple(city for city in CITIES if city not in PEOPLE),
}
"""Kind of entity → every name it may have. No name belongs to two kinds."""

LONG_POOLS: dict[str, tuple[str, ...]] = {
    "person": _words("abel bella cora doris edith felix grace helen iris judy kurt lucas mona neil otis pia quinn ruben"),
    "item": _words("anvil broom candy dish easel funnel globe hook iron jar kayak lens mop net oar paddle quilt rake"),
    "order": _numbered("JKLM"),
    "event": _words("auction bakeoff choir demo exam forum hackathon hunt jubilee keynote luncheon memorial outing premiere"),
    "city": _words("bergen cork dakar essen faro ghent haifa izmir jena kiel leeds malmo nantes omaha pisa quito riga"),
}
"""The same for the names that the questions of long chains start from, and no other question does."""
