"""A support desk's tickets, as Excel exports them where a comma is the decimal point: made up here, row by row.

Semicolons, a byte order mark, CRLF, line breaks and quotes inside cells; English and German; 23 queues from 200 rows
down to 3; one mail in 150 drags its whole thread behind it, about 1,200 tokens.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

# What the tickets of a queue are about, English and German by turns; the most frequent queue first.
QUEUES = {
    "Billing": ("the invoice for May", "die Rechnung vom Mai", "the direct debit", "die doppelte Abbuchung"),
    "Password & Login": ("my password", "das Kennwort", "the second factor at sign-in", "die Anmeldung im Konto"),
    "Delivery": ("the parcel", "das Paket", "the courier's delivery slot", "die Zustellung durch den Boten"),
    "Returns": ("the return label", "der Retourenschein", "the jacket I sent back", "die Rücksendung der Schuhe"),
    "Network": ("the Wi-Fi on floor three", "das WLAN im Lager", "the VPN tunnel", "der Router im Flur"),
    "Printers": ("the label printer", "der Drucker im Büro", "the toner cartridge", "der Papierstau am Gerät"),
    "E-Mail": ("the shared mailbox", "das Postfach der Abteilung", "the spam filter", "die Weiterleitung in Outlook"),
    "Laptops": (
        "the battery of my laptop",
        "das Netzteil vom Notebook",
        "the docking station",
        "die klemmende Tastatur",
    ),
    "Phones": ("the desk phone", "das Diensthandy", "the SIM card", "die Rufumleitung am Apparat"),
    "Payroll": ("my payslip", "die Gehaltsabrechnung", "the overtime pay", "die Lohnsteuerklasse"),
    "Holidays": (
        "my annual leave",
        "der Urlaubsantrag",
        "the carried-over vacation days",
        "der Resturlaub vom Vorjahr",
    ),
    "Travel": ("the hotel booking", "die Dienstreise nach Wien", "the train tickets", "die Reisekosten vom Kongress"),
    "Facilities": ("the heating in room 12", "die Klimaanlage", "the broken lift", "die Lampe im Treppenhaus"),
    "Access Cards": ("my door badge", "die Zutrittskarte", "the car park barrier", "der Ausweis für den Werkseingang"),
    "Databases": ("the nightly SQL backup", "die Datenbank im Testsystem", "the slow query", "der Index der Tabelle"),
    "Website": ("the contact page", "die Startseite im Browser", "the broken link in the footer", "das Cookie-Banner"),
    "Licences": ("the CAD licence", "die Lizenz für das Zeichenprogramm", "the seat count", "der Lizenzschlüssel"),
    "Security": ("a phishing mail", "der Virenscanner", "the leaked credentials", "die verdächtige Datei"),
    "Training": ("the first-aid course", "die Schulung zum Brandschutz", "the e-learning", "das Seminar im Herbst"),
    "Procurement": (
        "the purchase order",
        "die Bestellung der Stühle",
        "the supplier's quote",
        "das Angebot des Händlers",
    ),
    "Legal": ("the non-disclosure agreement", "der Mietvertrag", "the trademark claim", "die Klausel zur Haftung"),
    "Press": ("the interview request", "die Presseanfrage", "the newspaper article", "die Pressemitteilung"),
    "Canteen": ("the vegan lunch menu", "der Speiseplan", "the coffee machine in the canteen", "das Mittagessen"),
}
MOST, FEWEST, FALL = 200, 3, 1.6  # rows of the first queue, of the last, and how steeply they fall between
LONG_SHARE = 150  # of so many mails one has an older thread below it,
LONG_WORDS = (900, 520)  # of so many words, in English and in German: 1,200 tokens of all-MiniLM's each

SUBJECTS = (
    ("Question about {}", "{}: not as agreed", "Urgent: {}", "Problem with {}", "{}, once more", "Re: {}"),
    ("Frage: {}", "{}: nicht wie vereinbart", "Dringend: {}", "Problem, {}", "{}, schon wieder", "AW: {}"),
)
CORES = (
    (
        "Since {day} there has been trouble: {} is not what it should be.",
        "Could somebody please look at {}? It has been like this since {day}.",
        'My colleague said "leave it", but {} has to be in order by {day}.',
        "I wrote on {day} already; nothing has changed with {}; what now?",
    ),
    (
        "Seit {day} gibt es Ärger: {} ist nicht so, wie es sein sollte.",
        "Kann sich bitte jemand darum kümmern? Es geht um Folgendes: {}, und zwar seit {day}.",
        'Der Kollege meinte "abwarten"; bis {day} muss das aber geklärt sein: {}.',
        "Am {day} habe ich schon geschrieben; getan hat sich nichts; es geht um: {}.",
    ),
)
DAYS = (("Monday", "Tuesday", "last Friday", "the 3rd"), ("Montag", "Dienstag", "Freitag", "dem Dritten"))
TALK = (
    (
        "I have tried everything that the help page names.",
        "Two people in our team see the same.",
        "A picture is attached.",
        "There is no hurry before noon.",
        "Please call rather than write.",
        "The form on the intranet ends with an error; perhaps that matters.",
        "It worked well for years.",
        "We would be glad of an answer this week.",
    ),
    (
        "Ich habe alles versucht, was auf der Hilfeseite steht.",
        "Zwei aus unserem Team sehen dasselbe.",
        "Ein Bild hängt an.",
        "Vor Mittag eilt es nicht.",
        "Bitte lieber anrufen als schreiben.",
        "Das Formular im Intranet bricht ab; vielleicht hilft das weiter.",
        "Jahrelang ging es gut.",
        "Über eine Antwort in dieser Woche wären wir froh.",
    ),
)
GREETINGS = (("Hello,", "Dear team,", "Hi all,"), ("Hallo,", "Guten Tag,", "Liebes Team,"))
CLOSINGS = (("Kind regards", "Thanks a lot", "Best"), ("Mit freundlichen Grüßen", "Vielen Dank", "Gruß"))
NAMES = ("A. Okafor", "J. Brandt", "M. Øst", "L. Marín", "P. Schäfer", "K. Wójcik", "R. Iyer", "T. Lindqvist")

Row = dict[str, str]
COLUMNS = ("ticket_id", "created", "subject", "body", "queue", "priority")


def counts() -> dict[str, int]:
    """Rows of each queue: 200, 78, 45, ... down to 3."""
    return {queue: max(FEWEST, round(MOST / place**FALL)) for place, queue in enumerate(QUEUES, 1)}


def rows(seed: int, wanted: dict[str, int]) -> list[Row]:
    """So many tickets of each queue, shuffled; other seeds give other tickets."""
    rng = random.Random(seed)
    queues = [queue for queue, count in wanted.items() for _ in range(count)]
    rng.shuffle(queues)
    return [_ticket(rng, queue, number) for number, queue in enumerate(queues, 1)]


def _ticket(rng: random.Random, queue: str, number: int) -> Row:
    german = rng.randrange(2)
    thing = rng.choice(QUEUES[queue][german::2])
    core = rng.choice(CORES[german]).format(thing, day=rng.choice(DAYS[german]))
    talk = [core, *rng.sample(TALK[german], rng.randint(0, 1))]
    rng.shuffle(talk)
    lines = [rng.choice(GREETINGS[german]), "", " ".join(talk), "", rng.choice(CLOSINGS[german]), rng.choice(NAMES)]
    if number % LONG_SHARE == 40:
        lines += ["", *_thread(rng, german)]
    subject = rng.choice(SUBJECTS[german]).format(thing) if rng.random() < 0.95 else ""
    return {
        "ticket_id": f"T-{rng.randrange(10**6):06}",
        "created": f"{rng.randint(1, 28):02}.{rng.randint(1, 12):02}.2026 {rng.randint(7, 18):02}:15",
        "subject": subject,
        "body": "\n".join(lines),
        "queue": queue,
        "priority": rng.choice(("low", "normal", "high")),
    }


def _thread(rng: random.Random, german: int) -> Iterable[str]:
    """What was written before, quoted line by line: small talk that says nothing of the queue."""
    words = 0
    while words < LONG_WORDS[german]:
        line = f"> {rng.choice(NAMES)}: {' '.join(rng.sample(TALK[german], 3))}"
        words += len(line.split())
        yield line


def write(path: Path, tickets: Sequence[Row], columns: Sequence[str] = COLUMNS) -> Path:
    """As Excel saves "CSV UTF-8" on a German machine: BOM, semicolons, CRLF after a row, LF inside a cell."""
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, columns, delimiter=";", lineterminator="\r\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(tickets)
    return path
