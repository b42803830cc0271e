"""The open classes that the world's values come from.

A small policy copies well from classes of many values and guesses among few, so every value that a task copies comes from a class of at
least thirty. Each value is one word, one code (a capital and a number) or one number, so that the demo's tokenizer has one token for it.
"""

from random import Random


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CODE_NUMBERS = range(11, 75, 2)
"""The numbers of the codes: 32 codes a letter."""

FIRST_NAMES = _words(
    """Alice Bruno Clara David Elena Felix Grace Henry Irene Jonas Karen Lukas Maria Nolan Olga Peter Quinn Rosa Simon Tanya
    Umar Vera Walter Xenia Yusuf Zoe Arlo Bella Cyrus Daria Edgar Fiona Gavin Hanna Igor Julia Kevin Laura Mateo Nadia"""
)
LAST_NAMES = _words(
    """Adler Baker Costa Duran Evans Fisch Grant Hauser Ivers Jansen Keller Lopez Moreno Novak Olsen Perry Reyes Silva Torres Urban
    Vargas Weber Young Zeller Abbott Brandt Carver Dalton Ekman Foster Garner Hobbs Irwin Joyce
    Knight Larsen Meyer Nash Ortega Palmer"""
)
CITIES = _words(
    """Paris Oslo Lima Cairo Tokyo Delhi Quito Dakar Hanoi Sofia Turin Leeds Minsk Perth Seoul Tunis Vienna Zurich Bergen Malaga
    Porto Riga Split Kyoto Basel Lyon Bonn Graz Nice Brno Ghent Bruges Cork Dover Essen Gdansk"""
)
ITEMS = _words(
    """Lamp Desk Chair Tent Kettle Radio Camera Jacket Carpet Mirror Bottle Guitar Helmet Printer Blender Scarf Ladder Pillow
    Basket Candle Drill Fridge Heater Kayak Locker Mixer Oven Piano Rug Sofa Toaster Vase"""
)
TITLES = _words(
    """Review Standup Budget Interview Workshop Retro Demo Training Planning Sync Audit Briefing Canvass Debate Estimate Forum
    Handover Intake Kickoff Lecture Meetup Negotiation Offsite Panel Quiz Rehearsal Seminar Tasting Update Vote Webinar Exam"""
)
PLACES = _words(
    """Harbour Winter Garden Market River Castle School Station Village Forest Summer Bridge Museum Library Tower Valley Island
    Meadow Chapel Quarry Orchard Canal Square Mill Beach Hill Park Theatre Stadium Spring Autumn Cellar Terrace Lagoon Pier Dune"""
)
EVENTS = _words(
    """Concert Parking Fishing Camping Fair Parade Race Auction Picnic Festival Bazaar Regatta Exhibition Procession Marathon
    Circus Bonfire Fireworks Filming Busking Skating Swimming Hunting Diving Sailing Archery Cycling Climbing Wedding Barbecue
    Carnival Ballet Chess Tango Rally Derby"""
)
CURRENCIES = _words(
    """EUR USD GBP JPY CHF SEK NOK DKK PLN CZK HUF RON BGN TRY ILS EGP ZAR NGN KES INR PKR THB VND IDR PHP KRW TWD HKD SGD AUD
    NZD CAD MXN BRL ARS CLP PEN COP"""
)
AMOUNTS = tuple(range(100, 1000, 20))
RATES = tuple(f"{whole}.{tenth}" for whole in range(1, 6) for tenth in range(1, 10))
STATUSES = ("shipped", "packed", "delivered", "delayed", "lost")
REFUNDABLE = frozenset({"delayed", "lost"})


def codes(letter: str) -> tuple[str, ...]:
    """The codes of one class: `codes("C")` are the customer ids `C11`, `C13`, … `C73`."""
    return tuple(f"{letter}{number}" for number in CODE_NUMBERS)


CUSTOMERS, ORDERS, REFUNDS = codes("C"), codes("A"), codes("R")
PERSONS, MEETINGS, WEEKS, ROOMS, KEYS = codes("P"), codes("E"), codes("V"), codes("B"), codes("T")
ACCOUNTS = codes("K")
PAGES, OFFICES, DESKS = codes("H"), codes("F"), codes("D")


def held_out(first: int, second: int) -> bool:
    """Whether a pair of class positions is kept for validation, as a fifth of all pairs is.

    Both parts are known from training, their pair is not.
    """
    return (7 * first + 11 * second) % 5 == 0


def pair(rng: Random, firsts: tuple[str, ...], seconds: tuple[str, ...], *, validation: bool) -> str:
    """Draws two words such as a full name, from the pairs of training or from those that are held out."""
    while True:
        first, second = rng.randrange(len(firsts)), rng.randrange(len(seconds))
        if held_out(first, second) == validation:
            return f"{firsts[first]} {seconds[second]}"
