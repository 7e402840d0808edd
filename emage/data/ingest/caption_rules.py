"""Which captions are worth training on: `normalise` cleans a text, RULES say what is wrong with it, `keep` asks them.

A rule is a pure function of one normalised caption and is True when the caption should go. Rules know nothing of
pictures or of other rows; they are written for alt-text from the web and an English text encoder. They were tuned by
reading 10,000 LAION rows, with COCO's 25,014 captions, written by people, as the counter-check. They run in
order and the first that fires names the reason, so that counts per reason add up. Cheap questions stand before dear
ones throughout: the whole of LAION-400M passes here, and 10 us a caption is an hour of one core.
"""

# ruff: noqa: SIM905 (word lists are for reading)

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import lru_cache

from ftfy import fix_encoding
from ftfy.badness import is_bad

# --- Cleaning --------------------------------------------------------------------------------------------------------

INLINE_TAGS = "a abbr b big cite code em font i mark q s small span strike strong style sub sup tt u wbr"
BLOCK_TAGS = """article br button center caption dd del div dl dt fieldset figcaption figure footer form h1 h2 h3 h4
    h5 h6 header hr iframe img input ins label legend li link meta nobr noscript object ol option p param pre script
    section select source svg table tbody td textarea tfoot th thead title tr ul video"""
TAG_NAMES = "|".join(sorted((INLINE_TAGS + " " + BLOCK_TAGS).split(), key=len, reverse=True))

TAG = re.compile(rf"</?({TAG_NAMES})(?=[\s/>])[^<>]*>|<!--.*?(?:-->|\Z)|<!\[CDATA\[", re.IGNORECASE | re.DOTALL)
SCRIPT = re.compile(r"<(script|style)\b[^<>]*>.*?(</\1\s*>|\Z)", re.IGNORECASE | re.DOTALL)
PERSON = re.compile(r"<PERSON>")  # CC12M writes it for every name that it removed
INLINE = frozenset(INLINE_TAGS.split())
PAIR = re.compile(r"[^\x00-\x7f]{2}|[ÂÃâ]\s")  # mojibake is two such characters or more; the second may be a space
QUOTE = re.compile("[‘’‚‛′´]")  # NFKC would make a space and a loose accent of the last
DOUBLE_QUOTE = re.compile("[“”„‟″]")
NO_CHARACTER = re.compile("[™℠®\ufffd\u200b-\u200f\ufeff\u00ad]")  # NFKC makes "FlexTM"; lost bytes; zero width
CONTROL = re.compile(r"(?!\s)[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # a lone surrogate can't be written as UTF-8

# What software puts before an alt-text: Shopify's product pages, Google's page of results.
PREFIX = re.compile(r"\A(Load image into Gallery viewer, |(Google )?Image Result for )", re.IGNORECASE)

LONGEST = 4_000  # characters that cleaning looks at. NFKC takes time in the square of it, and html.unescape raises
PASSES = 20  # on a number of 4,300 digits. Text escaped or nested more often than this is made to stall a reader


def normalise(text: str) -> str:
    """A caption as plain text: no entities, no tags, no CSV quoting, NFKC, mojibake mended. Idempotent.

    Only the first LONGEST characters count. "" when PASSES of cleaning do not come to an end.
    """
    for _ in range(PASSES):  # an escaped tag becomes a tag, a tag's text becomes an entity: again
        cleaner = clean_once(text[:LONGEST])
        if cleaner == text:
            return text
        text = cleaner
    return ""


def clean_once(text: str) -> str:
    if text.startswith('"') and text.endswith('"') and '""' in text:  # a CSV field never unquoted: "a 6"" plate"
        text = text[1:-1].replace('""', '"')
    if "&" in text:
        text = html.unescape(text)
    if not text.isascii():
        if PAIR.search(text) and is_bad(text):  # is_bad, ftfy's own test, takes 14 us; the mending about 50
            text = fix_encoding(text)
        text = DOUBLE_QUOTE.sub('"', QUOTE.sub("'", NO_CHARACTER.sub("", text)))
        text = unicodedata.normalize("NFKC", text)
    if "<" in text:
        text = PERSON.sub("person", SCRIPT.sub(" ", text))
        text = TAG.sub(lambda tag: "" if (tag[1] or "").lower() in INLINE else " ", text)
    if text.startswith(("Load image", "Image ", "Google ")):
        text = PREFIX.sub("", text)
    if not text.isprintable() or "  " in text:  # every space but " " counts as not printable
        text = " ".join(CONTROL.sub("", text).split())
    return text.strip()


# --- What the rules look for -----------------------------------------------------------------------------------------

LETTER = re.compile(r"[^\W\d_]")
# Letters outside Latin: not U+1E00-1EFF (Vietnamese), not U+2000-2BFF (signs), not the emoji above U+1F000.
NOT_LATIN = re.compile(r"[\u0250-\u1dff\u1f00-\u1fff\u2c00-\ud7ff\uf900-\uffef\U00020000-\U0003ffff]")
LATIN_WORD = re.compile(r"(?<!\w)[A-Za-z][a-z]+(?!\w)")
SYMBOL = re.compile(r"[^\w\s]|[\d_]")
ASCII_LETTERS_AND_SPACE = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ "

URL = re.compile(
    r"(https?://|ftp://|www\.)\S+|[\w.+-]+@[\w-]+\.[\w.]+"
    r"|([\w-]+\.)*[\w-]{3,}\.(co\.)?([a-z]{2}|com|net|org|edu|gov|info|biz|shop|store|online|blog)(/\S*)?",
    re.I,
)
EXTENSION = re.compile(r"\.(jpe?g|png|gif|bmp|webp|tiff?|svg|psd|pdf|eps|mp4|docx?|html?|php|aspx?)$|%20", re.I)
CAMERA = re.compile(
    r"(img|dsc[fn]?|dscn|pict?|image|photo|screen ?shot|screen ?capture|whatsapp image|vlcsnap|scan|untitled)"
    r"[\s\d_.:()-]*(at )?\d[\s\d_.:()-]*([ap]m)?[\s\d()]*(\.\w{3,4})?",
    re.I,
)
COPY_NUMBER = re.compile(r" ?\(\d+\)(?=$|\.\w{3,4}$)")  # what a file system adds to a second file of one name
MARKUP = re.compile(
    r"<[a-z/!][^<>]*=|</?[a-z]\w*>?$|(style|class|href|src|target|width|align)=[\"'{]|\{\{|\}\}|\$\{"
    r"|\[/?(url|img|caption|b|i)\b|function ?\(\w*\) ?\{",
    re.I,
)
BOILERPLATE = re.compile(
    r"click (here|to |on (the|this|an) |for |image|the |picture|photo|thumb)"
    r"|(tap|hover|scroll|mouse over) (to|for) (enlarge|zoom)"
    r"|(view|see|show) (in )?(the )?(full|larger?|bigger|original)[ -](size|screen|image|pic|photo|version)"
    r"|(to|for) enlarge|load image into|in (a )?new (window|tab)|image may contain|no photo description"
    r"|(image|photo|picture) (is )?(not available|not found|unavailable|coming soon)|no (image|photo|picture) available"
    r"|embedded image permalink|skip to (content|main)|lorem ipsum|all rights reserved|(does|is) not support"
    r"|(accept|uses) cookies|follow us (on|by)|share (this|on (facebook|twitter))|subscribe to (our|the|rss)"
    r"|add to cart",
    re.I,
)
BOILERPLATE_WORDS = frozenset(  # every alternative above holds one of these: a question of 0.2 us before one of 13
    """click (click [click *click enlarge enlarge) enlarge. zoom zoom) zoom. view (view see (see show into window
    window) window. tab tab) tab. contain contain: description available available. available) found found. found)
    unavailable unavailable. coming permalink skip ipsum rights support cookies cookies. follow share subscribe
    cart cart.""".split()
)
PLACEHOLDER = re.compile(
    r"((the|a|an|my|our|your|main|featured|default|product|post|blog|article|profile|user|cover|header|background|site"
    r"|company|website|official|gallery|full|large|small|related|alternate|additional|selected|no|new|first|next"
    r"|previous|sample|picture|image|photo|video|author|of|for|item|page|slide|view|home|logo|icon|thumb)[\s-]+)*"
    r"(image|img|photo|picture|pic|logo|icon|avatar|banner|thumbnail|thumb|screenshot|placeholder|untitled|slide"
    r"|default|unknown|null|undefined|none|n/a|spacer|favicon|gallery|preview)s?[\s#.:_-]*\d{0,4}( of \d+)?\W*",
    re.I,
)
SAME_LETTER = re.compile(r"([^\W\d_])\1{4}")
DIGIT = re.compile(r"\d")
CODE_WORDS = frozenset("sku item part mfg ref isbn ean upc asin mpn code art num number stk stock qty pcs lot".split())
HEX = re.compile(r"(?<![^\W_])(?=[0-9a-f]*[a-f][0-9])[0-9a-f]{5,}(?![^\W_])")
HEX_SHAPE = bytes.maketrans(b"0123456789abcdef", b"0" * 10 + b"a" * 6)
PLAIN_WORD = re.compile(r"(?<![^\W_])[^\W\d_]{3,}(?![^\W_])")
HASHTAG = re.compile(r"#\w*[^\W\d_]")

# Words that tell a language: function words, and what pages of photographs and of shops say most. ENGLISH ones answer
# the others. FOREIGN ones are no English word, name or abbreviation; FOREIGN_SMALL ones are with a capital (MIT, Lake
# Como, Uma Thurman); WEAK ones stand in English captions too, in names, in names of colours and of goods.
ENGLISH = frozenset(
    """the of and on at with for from by are were to it its this that his her their our your you we my as be have has
    how what when where who why which not or out up down new""".split()  # "in", "is", "an": Dutch or German as well
)
FOREIGN = frozenset(
    """und oder für einen einer eine eines zum zur auf ist nicht auch sich nach über vom ohne sind wird mehr ihre
    kaufen bestellen angebot bild bilder herren damen mädchen jungen schuhe stiefel kleid kleider jacke hosen hemd
    tasche ohrringe armbanduhr brille sonnenbrille leder holz edelstahl silber baumwolle hochzeit geburtstag
    weihnachten blumen wohnzimmer schlafzimmer badezimmer küche ferienwohnung gebraucht zubehör hörbuch staffel größe
    stück produkt produkte modell kollektion exklusive limitierte möbel leuchte stuhl rezept rezepte ideen straße
    bahnhof günstig kostenlos herunterladen vorschaubild deutsch deutsche jahre jahren geschichte musik arbeit
    avec dans qui que votre nous cette leur une enfants enfant garçon bébé chaussures chaussure bottes sandales veste
    pantalon jupe boucles d'oreilles lunettes coque bague affiche anniversaire mariage recette recettes gâteau fleurs
    chien acheter achat télécharger échange couleur couleurs dessin femmes hommes cuir acier verre pièces produit
    produits modèle taille français française musique travail actualité
    más cómo desde entre hasta sobre por mujer mujeres niños niñas zapatos zapatillas botas sandalias bolso camiseta
    camisetas camisa chaqueta pantalón pantalones falda mochila cartera pendientes anillo pulsera reloj relojes gafas
    lámpara silla sillas madera acero piel algodón imagen imágenes fotografía boda bodas cumpleaños habitación
    baño cocina perro precio precios comprar producto productos película juego juegos libro libros tarjeta tarjetas
    tamaño talla colección ejercicios descargar gratuito mejor mejores días año años noticias música español española
    trabajo historia
    gli della delle dei degli nel nella più sono donne scarpe stivali abito camicia giacca pantaloni borsa gioielli
    orecchini bracciale collana anello orologio occhiali bambina bambino bambini ragazza pelle legno acciaio cotone
    immagine immagini fotografie prezzo prezzi vendita prodotto prodotti modello collezione anni notizie lavoro storia
    sedia letto perfetto
    não mais seu sua pelo pela mulher mulheres feminino feminina masculino masculina sapato sapatos criança crianças
    pulseira relógio óculos couro madeira casamento preço produto produtos coleção tamanho baixar grátis cozinha
    trabalho história português cidade
    een voor niet naar deze zijn ook heren dames schoenen laarzen jurk kinderen horloge oorbellen zonnebril leren
    hout katoen afbeelding afbeeldingen kopen slaapkamer woonkamer badkamer keuken tafel stoel tweedehands foto's
    collectie maat nieuws nieuwe wereld
    bij och för på är ett inte från kläder skor ikke billede billeder naisten miesten
    jest się nie oraz przez dla zdjęcie zdjęcia sukienka buty damskie męskie dzieci darmowe sklep
    için kadın erkek çocuk resmi resimleri és egy hogy și pentru với và của không
    dengan untuk gambar harga murah jual contoh resep baju wanita desain minimalis mengapa perbandingan
    prediksi""".split()
)
FOREIGN_SMALL = frozenset(
    "mit aus bei das dem est ou chez como una alla che donna uomo dos uma são ao ve ile cho un sur il".split()
)
WEAK = FOREIGN_SMALL | frozenset(
    """de la le les du des et en au el los las del con para sin di da do na no em al per pour sans van von den im die
    te op met till med com es se y à cu je za od po av att aux der yang
    foto fotos photos niño niña femme homme fille hombre noir noire blanc blanche rouge bleu bleue vert gris schwarz
    weiß rot blau grün negro negra blanco blanca azul rojo roja verde amarillo nero bianco rosso preto branco zwart
    rood neu nouveau nouvelle nuevo kinder frau haus garten zimmer chambre maison jardin robe sac carte jeu jeux casa
    venta vestido gratis gratuit gratuite cristal plata diamantes oro cucina monde mondo mundo flores argento
    coton""".split()
)
NOT_ENGLISH = FOREIGN | WEAK
ACCENTED = re.compile(r"[\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff]")


# --- The rules: True when the caption should go ----------------------------------------------------------------------


@lru_cache(maxsize=1)  # three rules ask for the words of the same caption
def words(text: str) -> frozenset[str]:
    return frozenset(text.lower().split())


def empty(text: str) -> bool:
    """Nothing is left after cleaning (`keep` also says so of what is no string: a missing value, a number)."""
    return not text


def too_short(text: str) -> bool:
    """One or two characters name nothing ("ox" is the price); LAION-400M asks for five, but "cat" is a caption."""
    return 0 < len(text) < 3


def too_long(text: str) -> bool:
    """Over 1,000 characters it is a page's text or a keyword dump, and CLIP reads only the first 77 tokens."""
    return len(text) > 1000


def no_letters(text: str) -> bool:
    """Dates, prices, sizes and emoticons."""
    return text != "" and not text[0].isalpha() and LETTER.search(text) is None


def url(text: str) -> bool:
    """A web or mail address and nothing else."""
    return " " not in text and "." in text and URL.fullmatch(text) is not None


def file_name(text: str) -> bool:
    """Alt-text that software took from the file: red-bus-in-london-2, DSC_0012.JPG, Screenshot 2019-01-01."""
    if ")" in text:
        text = COPY_NUMBER.sub("", text)
    if " " in text:
        return len(text) < 80 and CAMERA.fullmatch(text) is not None  # its time grows with the cube of the length
    joints = text.count("-") + text.count("+")
    slug = joints > 2 or (joints == 2 and any(map(str.isdigit, text)))
    return slug or "_" in text or EXTENSION.search(text) is not None or CAMERA.fullmatch(text[:80]) is not None


def markup(text: str) -> bool:
    """HTML, templates or scripts that cleaning could not remove, most often a tag cut in half."""
    suspect = "<" in text or "=" in text or "[" in text or "{" in text or "}" in text
    return suspect and MARKUP.search(text) is not None


def boilerplate(text: str) -> bool:
    """The page speaks to its visitor (click to enlarge, image may contain); Conceptual Captions drops these as well."""
    return not BOILERPLATE_WORDS.isdisjoint(words(text)) and BOILERPLATE.search(text) is not None


def placeholder(text: str) -> bool:
    """The whole caption says only that there is a picture: image 3, company logo, untitled."""
    return len(text) < 40 and PLACEHOLDER.fullmatch(text) is not None


def repeated_characters(text: str) -> bool:
    """Five equal letters in a row are no English word; digits and dots may repeat."""
    data = text.encode()
    number = int.from_bytes(data, "big")  # equal neighbours become zero bytes: 6 times as fast as the regex
    neighbours = (number ^ number >> 8).to_bytes(len(data), "big")
    return neighbours.find(b"\0\0\0\0") >= 0 and SAME_LETTER.search(text) is not None  # faster than `in`, here too


def repeated_words(text: str) -> bool:
    """Search-engine stuffing: at most half of the words are new, or one word is a quarter of them all."""
    num_words = text.count(" ") + 1
    repeats = num_words - len(words(text))
    if num_words < 4 or repeats < 3:
        return False
    if 2 * repeats > num_words or (2 * repeats == num_words and num_words > 5):
        return True
    return 4 * (repeats + 1) >= num_words and 4 * most_frequent(text) >= max(num_words, 16)


def most_frequent(text: str) -> int:
    """How often the most frequent word of four letters or more is there."""
    return max(Counter(word for word in text.lower().split() if len(word) > 3).values(), default=0)


def mostly_symbols(text: str) -> bool:
    """Over half of the characters are digits and signs: tables, part lists, times and scores."""
    if text.isascii():
        symbols = len(text.encode().translate(None, ASCII_LETTERS_AND_SPACE))
    else:
        symbols = len(SYMBOL.findall(text))
    return 2 * symbols > len(text) and LETTER.search(text) is not None


def wrong_script(text: str) -> bool:
    """A fifth of the letters, or a third beside five Latin words, are of a script that CLIP and BERT hardly learned."""
    if text.isascii() or NOT_LATIN.search(text) is None:
        return False
    share = len(NOT_LATIN.findall(text)) / max(1, len(LETTER.findall(text)))
    return share > 1 / 3 or (share > 0.2 and len(LATIN_WORD.findall(text)) < 5)


def foreign_language(text: str) -> bool:
    """Words that tell another language outweigh the English ones; an accent is a weak sign, for names have them."""
    found = words(text)
    if text.isascii() and NOT_ENGLISH.isdisjoint(found):
        return False
    small = len(FOREIGN_SMALL.intersection(text.split()))
    foreign, weak = len(found & FOREIGN) + small, len(found & WEAK) - small
    if not text.isascii():
        weak += sum(ACCENTED.search(word) is not None for word in found - NOT_ENGLISH)
    if (foreign == 0 and weak < 3) or 10 * (foreign + weak) < len(found):  # shops add one for searches to a long title
        return False
    english = len(found & ENGLISH)
    return (foreign > 0 and 2 * foreign + weak > 2 * english) or english == 0


def product_code(text: str) -> bool:
    """A short line of numbers and letters, with no word of three letters in it but "SKU", "part" and the like."""
    if len(text) > 60:
        return False
    first = PLAIN_WORD.search(text)
    if first and first[0].lower() not in CODE_WORDS:
        return False
    if DIGIT.search(text) is None or LETTER.search(text) is None:
        return False
    return CODE_WORDS.issuperset(PLAIN_WORD.findall(text.lower()))


def hash_code(text: str) -> bool:
    """Hexadecimal numbers, one of 8 digits or two of 5 ("fa589 a2efe"): shops made by machine to catch searches."""
    if text.encode().translate(HEX_SHAPE).find(b"a0") < 0:  # a letter, then a digit: no regex for the many without
        return False
    numbers = HEX.findall(text)
    return len(numbers) > 1 or (len(numbers) == 1 and len(numbers[0]) > 7)


def hashtags(text: str) -> bool:
    """Half of the words, and at least three, are hashtags."""
    return text.count("#") > 2 and 2 * len(HASHTAG.findall(text)) >= len(text.split())


def keyword_list(text: str) -> bool:
    """A page's keywords, not a sentence: eight commas with a word or two between them, or eight words after "Tags:"."""
    commas = text.count(",")
    if commas > 7 and len(text.split()) < 2 * (commas + 1):
        return True
    return " Tags: " in text and len(text.partition(" Tags: ")[2].split()) > 7


# Reason -> rule, asked in this order. Reasons are values of a column on disk: a function may be renamed, they may not.
RULES: dict[str, Callable[[str], bool]] = {
    "empty": empty,
    "too_short": too_short,
    "too_long": too_long,
    "no_letters": no_letters,
    "url": url,
    "file_name": file_name,
    "markup": markup,
    "boilerplate": boilerplate,
    "placeholder": placeholder,
    "repeated_characters": repeated_characters,
    "repeated_words": repeated_words,
    "mostly_symbols": mostly_symbols,
    "wrong_script": wrong_script,
    "foreign_language": foreign_language,
    "product_code": product_code,
    "hash_code": hash_code,
    "hashtags": hashtags,
    "keyword_list": keyword_list,
}

# Part of what a tokenized shard is known by. Where a caption gets another result, give it a new value, or shards made
# by other rules are taken for those of these. The first value is what outputs recorded before there was a version.
RULES_VERSION = "bab6e35199fc63598c0bde4310bfe7b8b024b0f867f44e5ef03dd99c91381cfc"


def keep(text: object) -> str | None:
    """None when the caption is worth training on, else the name of the first rule that it breaks. Normalises it itself.

    What is no string (None, NaN from pandas) is "empty". Train on `normalise(text)`, which is what the rules saw.
    """
    if not isinstance(text, str):
        return "empty"
    text = normalise(text)
    for name, rule in RULES.items():
        if rule(text):
            return name
    return None
