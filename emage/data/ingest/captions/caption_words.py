"""The patterns and the word lists that the caption rules look for. No logic: caption_rules.py uses them.

They were tuned by reading 10,000 LAION rows, with COCO's 25,014 captions, which people wrote, as the counter-check.
"""

# ruff: noqa: SIM905 (word lists are for reading)

import re

# What programs write for a missing text: pandas, numpy, databases ("\\N"), JavaScript, spreadsheets. No whole caption.
_MISSING = "nan NaN NaT nat null none nil na n/a n.a. #n/a <na> undefined".split()
MISSING = frozenset(
    ["", "\\N", "(null)", *(f(word) for word in _MISSING for f in (str, str.upper, str.lower, str.capitalize))]
)

LETTER = re.compile(r"[^\W\d_]")
# Letters of other scripts: not U+1E00-1EFF (Vietnamese), not U+2000-2BFF (signs), not the emoji above U+1F000.
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
COPY_NUMBER = re.compile(r" ?\(\d+\)(?=$|\.\w{3,4}$)")  # file systems add it to a second file of the same name
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
BOILERPLATE_WORDS = frozenset(  # every alternative above contains one of these: a check of 0.2 us before one of 13 us
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

# Words by which a language is recognised: function words, and the commonest words of pages of photographs and of
# shops. ENGLISH words outweigh the others. FOREIGN words are not English words, names or abbreviations. FOREIGN_SMALL
# words are FOREIGN only in lower case (capitalised: MIT, Lake Como, Uma Thurman). WEAK words also occur in English
# captions, as names of people, of colours and of goods.
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
