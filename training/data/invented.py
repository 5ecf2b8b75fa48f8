"""Invented films: the words and the small grammar behind the synthetic catalogue. No real title, name or brand.

A theme is a cluster of taste inside two categories; its films share words with each other, and the parts of one
series share a title, so that text carries theme, category and series. This module knows no users and no draws but
those of the generator that it is given.

    writer = Writer(np.random.default_rng(0))
    writer.series(theme=0, parts=3)     # [("The Patient Lighthouse", "In Saltmere, ..."), ...]
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Theme:
    """One cluster of films. Every field is a list to draw from, but `name` and `categories`."""

    name: str
    categories: tuple[str, str]
    adjectives: Sequence[str]
    nouns: Sequence[str]
    heroes: Sequence[str]
    deeds: Sequence[str]
    places: Sequence[str]


def _theme(name: str, categories: str, adjectives: str, nouns: str, heroes: str, deeds: str, places: str) -> Theme:
    first, second = categories.split("/")
    lists = (tuple(words.split("/")) for words in (adjectives, nouns, heroes, deeds, places))
    return Theme(name, (first, second), *lists)


THEMES = (
    _theme(
        *("coastal mystery", "Mystery/Crime", "Patient/Salt-Stained/Silent/Drowned/Distant/Shuttered"),
        "Lighthouse/Harbour/Tide Table/Ferry/Foghorn/Breakwater/Ledger/Anchor",
        "a retired harbour pilot/a stubborn coroner/a lighthouse keeper's daughter/a ferry inspector",
        "follows a missing logbook/questions a whole village/counts the bodies the tide returns/reopens a sealed case",
        "Port Ardel/Gull Ness/the Sorrow Islands/Saltmere/Cape Henny",
    ),
    _theme(
        *("locked library", "Mystery/Drama", "Forgotten/Seventh/Marble/Borrowed/Unsigned/Velvet"),
        "Reading Room/Manuscript/Archivist/Catalogue/Inkwell/Index/Bookbinder/Margin",
        "a night archivist/a forger of maps/a blind librarian/a scholar with a rival",
        "deciphers a note in a margin/hunts a stolen folio/swears to an impossible alibi/unmasks an anonymous donor",
        "the Athenaeum of Vell/Quill Street/the Brandt Collection/the Old Faculty/Lindenhall",
    ),
    _theme(
        *("deep-space story", "Science Fiction/Adventure", "Outer/Cold/Ninth/Vanishing/Iron/Last"),
        "Orbit/Signal/Station/Comet/Airlock/Perihelion/Beacon/Colony",
        "a cargo navigator/the crew of a survey ship/a cook on a generation ship/an exiled astronomer",
        "answers a signal from nowhere/repairs a dying reactor/finds a second crew aboard/outruns a solar storm",
        "Kessandra Station/the Tau Belt/Moon Four/the ark Meridian/Halcyon Deep",
    ),
    _theme(
        *("robot story", "Science Fiction/Drama", "Gentle/Recursive/Copper/Obedient/Electric/Unfinished"),
        "Automaton/Algorithm/Mirror/Assembly/Memory/Clockmaker/Circuit/Apprentice",
        "a robot that paints/a programmer in mourning/an android nanny/a court appointed debugger",
        "learns to refuse an order/wakes with someone's memories/argues for a machine's rights/builds its own heir",
        "New Brasshaven/Laboratory Nine/the Foundry/Sector Lumen/the Silent Campus",
    ),
    _theme(
        *("village comedy", "Comedy/Family", "Great/Runaway/Prize-Winning/Accidental/Hopeless/Sunday"),
        "Marrow/Brass Band/Bake Sale/Goose/Cricket Match/Postman/Village Hall/Scarecrow",
        "a hopeless mayor/a baker with two rivals/a goose with ambition/a vicar who cannot say no",
        "enters the wrong contest/hides a cow from the inspector/saves the fete by mistake/feuds over a hedge",
        "Little Wimbling/Upper Dozing/Puddlecombe/Mosswick Green/Nether Applefold",
    ),
    _theme(
        *("office comedy", "Comedy/Romance", "Temporary/Overdue/Unpaid/Casual/Mandatory/Reply-All"),
        "Stapler/Meeting/Elevator/Intern/Quarterly Report/Coffee Machine/Badge/Promotion",
        "an overlooked accountant/a clerk in a shared cubicle/a temp with seven names/a boss who fears Mondays",
        "falls in love over a spreadsheet/fakes a merger/gets promoted by mistake/hosts the worst party of the year",
        "the fourteenth floor/Dunmore and Daughters/Building C/the Copying Department/Grey Plaza",
    ),
    _theme(
        *("haunted house", "Horror/Mystery", "Hollow/Whispering/Crooked/Nameless/Weeping/Unlit"),
        "Staircase/Cellar/Nursery/Attic/Portrait/Door/Wallpaper/Well",
        "a family of five/a sceptical plumber/the last tenant/a medium who lost her gift",
        "hears the walls breathe/digs under the cellar floor/must not look at the portrait/spends one night too many",
        "Gravelock Manor/Thorn House/Number Thirteen/the Asher estate/Blackfen Hall",
    ),
    _theme(
        *("creature feature", "Horror/Science Fiction", "Hungry/Many-Legged/Giant/Subterranean/Feral/Moonlit"),
        "Swarm/Larva/Swamp/Burrow/Specimen/Claw/Hatchery/Fen",
        "a vet on night duty/a team of cavers/a biologist without funding/the park's only ranger",
        "wakes something under the bog/barricades a petrol station/breeds the wrong egg/tracks prints with six toes",
        "Murkwater/the Deep Quarry/Tallow Creek/Research Site Elm/the Lower Marsh",
    ),
    _theme(
        *("frontier western", "Western/Adventure", "Dusty/Lonesome/Crimson/One-Eyed/Broken/Long"),
        "Saddle/Canyon/Stagecoach/Bounty/Spur/Railroad/Waterhole/Deputy",
        "a widow with a rifle/a drifter called Cass/an honest gambler/a sheriff of nineteen",
        "rides for water rights/guards the last stagecoach/settles an old bounty/holds the pass until dawn",
        "Dry Fork/Perdition Flats/Rattle Canyon/Fort Amity/Copper Gulch",
    ),
    _theme(
        *("mountain adventure", "Adventure/Documentary", "White/Vertical/Thin-Air/Northern/Frozen/Impossible"),
        "Summit/Glacier/Rope/Ridge/Base Camp/Crevasse/Ascent/Avalanche",
        "a climber of seventy/a climber roped to her sister/a guide who gave up/a team of mapmakers",
        "tries the north face in winter/searches for a lost expedition/crosses a glacier alone/carries a friend down",
        "Mount Ysolde/the Ketter Range/the White Shoulder/Camp Three/the Orsa Icefield",
    ),
    _theme(
        *("summer romance", "Romance/Drama", "Late/Golden/Borrowed/Barefoot/Second/Lemon-Yellow"),
        "Summer/Letter/Balcony/Orchard/Waltz/Bicycle/Postcard/Promise",
        "a translator on leave/a widowed gardener/a faithful pen friend/a violinist with a broken hand",
        "rents the same room twice/answers a letter meant for another/dances until the last ferry/misses every train",
        "Belmare/the Orchard Coast/Via Lucente/San Oriel/the Hotel Mimosa",
    ),
    _theme(
        *("court intrigue", "Romance/History", "Gilded/Secret/Scarlet/Disinherited/Masked/Winter"),
        "Crown/Masquerade/Duchess/Sonnet/Treaty/Carriage/Chaperone/Heirloom",
        "a duchess in disguise/the king's food taster/a poet under house arrest/a governess with a past",
        "elopes before the treaty is signed/trades a secret for a dance/marries for revenge/forges a royal letter",
        "the court of Averne/Castle Lorn/the Winter Palace of Ostra/Rosenthal/the Summer Embassy",
    ),
    _theme(
        *("nature film", "Documentary/Family", "Hidden/Migrating/Tiny/Emerald/Patient/Sleeping"),
        "Forest/River/Heron/Savanna/Reef/Beehive/Otter/Meadow",
        "a pair of otters/a colony of bees/one old heron/a herd on the move",
        "crosses a continent/survives the dry season/raises four young/rebuilds after the flood",
        "the Amberwood/the Long River/Coral Bay/the Windward Plains/Fernvale",
    ),
    _theme(
        *("music story", "Music/Documentary", "Electric/Midnight/Unplugged/Velvet/Off-Key/Blue"),
        "Trumpet/Encore/Jukebox/Rehearsal/Bassline/Record Shop/Choir/Refrain",
        "a choir of dockers/a one-hit singer/a drummer losing his hearing/a band with one van",
        "records one perfect album/plays the empty halls/reunites for a last encore/steals a song back",
        "the Blue Cellar/Radio Tamber/Station Road/the Orpheon/Delta Street",
    ),
    _theme(
        *("heist", "Crime/Comedy", "Perfect/Eleventh/Double/Careful/Paper/Stolen"),
        "Vault/Getaway/Diamond/Blueprint/Alibi/Safecracker/Decoy/Tunnel",
        "a retired safecracker/a crew of grandmothers/a bank clerk with a plan/a twin with two passports",
        "robs a vault on live television/tunnels into the wrong bank/swaps the diamond twice/trusts the wrong driver",
        "the Bank of Corvina/Mint Street/the Casino Aurelia/Platform Nine/the Free Port",
    ),
    _theme(
        *("dragon fantasy", "Fantasy/Adventure", "Ember/Sworn/Runaway/Ancient/Thorned/Starlit"),
        "Dragon/Oath/Sword/Witch/Throne/Griffin/Prophecy/Kingdom",
        "a stable boy with a dragon egg/a witch of nine winters/an oath-breaking knight/a princess who maps dungeons",
        "carries a cursed sword home/bargains with the last dragon/breaks a prophecy/crosses the thorn wood",
        "the realm of Ithvar/Emberkeep/the Thorn Wood/Castle Wyrmrest/the Nine Valleys",
    ),
)
SUBTITLES = (
    "Return to {place}",
    "The Other {noun}",
    "Shadows over {place}",
    "The {adjective} Years",
    "Farewell, {place}",
)
OPENINGS = ("In {place}, {hero} {deed}.", "{Hero} {deed} in {place}.", "{Hero} comes to {place} and {deed}.")
CLOSINGS = (
    "For everyone who likes a {name} with a {noun} in it.",
    "A {name} in which the {noun} is never quite what it seems.",
    "A {adjective} {name}, told with a {noun} and a wink.",
)

ARTICLE = re.compile(r"\b([Aa])(?= [aeiou](?!ne-))")  # "a" before a vowel, but "a one-eyed"


class Writer:
    """Writes series of films, never the same title twice."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator
        self._used: set[str] = set()

    def series(self, theme: int, parts: int) -> list[tuple[str, str]]:
        """(title, text) of each part, first part first."""
        stem = self._stem(THEMES[theme])
        hero, home = self._one(THEMES[theme].heroes), self._one(THEMES[theme].places)
        told = []
        for part in range(parts):
            title = (
                stem if part == 0 else f"{stem} {part + 1}: {self._filled(SUBTITLES[part - 1], THEMES[theme], home)}"
            )
            text = self._filled(self._one(OPENINGS), THEMES[theme], home, hero)
            if part:
                text = f"Part {part + 1} of {stem}. {text}"
            closing = ARTICLE.sub(r"\1n", self._filled(self._one(CLOSINGS), THEMES[theme], home))
            told.append((title, f"{text} {closing}"))
        return told

    def _stem(self, theme: Theme) -> str:
        for _ in range(8):
            stem = f"The {self._one(theme.adjectives)} {self._one(theme.nouns)}"
            if stem not in self._used:
                break
        else:  # a large catalogue: the plain titles of this theme are mostly taken
            stem = f"{stem} of {self._one(theme.places).removeprefix('the ').capitalize()}"
        plain, number = stem, 1
        while stem in self._used:
            number += 1
            stem = f"{plain}, No. {number}"
        self._used.add(stem)
        return stem

    def _filled(self, pattern: str, theme: Theme, place: str, hero: str = "") -> str:
        adjective, noun = self._one(theme.adjectives), self._one(theme.nouns)
        if not pattern.endswith("."):  # a title keeps its capitals
            return pattern.format(place=place, noun=noun, adjective=adjective)
        return pattern.format(
            place=place,
            hero=hero,
            Hero=hero[:1].upper() + hero[1:],
            deed=self._one(theme.deeds),
            name=theme.name,
            noun=noun.lower(),
            adjective=adjective.lower(),
        )

    def _one(self, words: Sequence[str]) -> str:
        return words[int(self.generator.integers(len(words)))]
