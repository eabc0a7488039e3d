"""Patterns of text that says nothing about a picture (RE2, lower and upper case alike).

Dates, file names, counters, links, and what stock agencies, galleries and content systems write.
"""

_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\b\.?"
)
# German, French, Spanish, Italian, Portuguese, Dutch, Swedish, Danish, Polish; only behind a day,
# for "mars" and others mean other things too.
_MONTH_ABROAD = (
    r"(?:janu?ar[iy]?|jänner|janv(?:ier)?|enero|gennaio|janeiro|stycznia"
    r"|febru?ari?|f[ée]vr(?:ier)?|febrero|febbraio|fevereiro|lutego"
    r"|märz?|mars|marts|marzo|março|maart|mrt|marca|avr(?:il)?|abril|aprile|kwietnia"
    r"|mai|mayo|maggio|maio|mei|maj|maja|juin|junio|giugno|junho|czerwca"
    r"|jui?li|juil(?:let)?|julio|luglio|julho|lipca|juni|août|augusti?|augustus|agosto|sierpnia"
    r"|sept?iembre|setiembre|settembre|setembro|septembre|września"
    r"|okt(?:ober)?|octobre|octubre|ottobre|outubro|października"
    r"|novembre|noviembre|novembro|listopada|dez(?:ember)?|d[ée]c(?:embre)?|diciembre|dicembre"
    r"|dezembro|desember|grudnia)\b\.?"
)
_ANY_MONTH = rf"(?:{_MONTH}|{_MONTH_ABROAD})"
_DAYNAME = r"\b(?:mon|tues|wednes|thurs|fri|satur|sun)day\b"
_WEEKDAY = r"(?:\b(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?\b\.?,?\s+)?"
_UNITS = r"first|second|third|fourth|fifth|sixth|seventh|eighth|ninth"
_ORDINAL = (
    rf"(?:(?:twenty[\s-])?(?:{_UNITS})|thirty[\s-]first|tenth|eleventh|twelfth|thirteenth"
    r"|fourteenth|fifteenth|sixteenth|seventeenth|eighteenth|nineteenth|twentieth|thirtieth)"
)
_DAY = rf"(?:\d{{1,2}}(?:st|nd|rd|th|er|º|\.)?|{_ORDINAL})"
_OF = r"(?:(?:of|de)\s+)?"
_YEAR = r"(?:\d{4}|['’]?\d{2})"
_CLOCK = (
    r"\d{1,2}[:.h]\d{2}(?:[:.]\d{2}(?:\.\d+)?)?"
    r"(?:\s*[ap]\.?m\b\.?)?(?:\s*(?:z|utc|gmt|[a-z]{2,4}t|[+-]\d{2}:?\d{2})\b)?"
)
_TIME = rf"(?:(?:\s*t|,?\s*(?:-|at|@)?\s*){_CLOCK})?"
# A day of a month of a year, in figures or in words, perhaps with the time of day.
_FULL_DATE = (
    rf"{_WEEKDAY}(?:the\s+)?(?:"
    r"\b\d{4}([-/.年]\s?)\d{1,2}[-/.月]\s?\d{1,2}日?"
    r"|\b\d{1,2}[-/.]\d{1,2}[-/.](?:\d{4}|\d{2})\b"
    r"|\b(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:[t_-]?\d{6})?z?\b"
    rf"|\b{_DAY}[\s-]*{_OF}{_ANY_MONTH},?[\s-]*{_OF}{_YEAR}\b"
    rf"|\b{_MONTH}\s*{_DAY},?\s+{_YEAR}\b"
    rf"){_TIME}"
)
# Less exact ones mean a date stamp only behind a word such as "photographed".
_ANY_DATE = (
    rf"(?:{_FULL_DATE}|{_WEEKDAY}(?:the\s+)?(?:\b{_DAY}[\s-]+{_OF}{_ANY_MONTH}"
    rf"|{_MONTH}\s+{_DAY}\b|{_MONTH},?\s+\d{{4}}|\b(?:19|20)\d{{2}}\b|\d{{1,2}}[-/.]\d{{1,2}}(?:[-/.]\d{{2,4}})?)"
    rf"{_TIME})"
)
_TAKEN = (
    r"(?:photographed|taken|captured|uploaded|posted|published|created|dated|recorded|updated|added"
    r"|scanned|modified|submitted)"
)
_MADE = rf"(?:photo(?:graph)?|picture|image|shot|date|{_TAKEN})"
# Names, told from "by the sea" by their capitals.
_BY = r"(?:,?\s+by(?:\s+(?-i:\p{Lu})[^\s,;]*){1,4})"
# What could begin a phrase of the caption means a date stamp only where the phrase ends with it.
_ROUGHLY = (
    rf"(?:{_DAYNAME}(?:\s+(?:morning|afternoon|evening|night))?|{_MONTH}"
    r"|(?:the\s+)?(?:(?:early|late|mid)[\s-]+)?(?:spring|summer|autumn|fall|winter)"
    r"|\d{1,2}(?::\d{2}(?:\s*[ap]\.?m\b\.?)?|(?:[.h]\d{2})?\s*[ap]\.?m\b\.?))"
)
_END = r"\s*(?:$|[.,;:|()\[\]/–—-])"
_PICTURE = (
    r"(?:image|photo(?:graph)?|picture|pic|slide|page|figure|fig\.?|img|thumbnail|view|item"
    r"|screenshot|gallery)"
)
_KIND = r"(?:photo(?:graph)?(?:y|s)?|images?|pictures?|illustrations?|vectors?|clip\s?art|footage)"
_EXTENSION = r"(?:jpe?g|png|gif|bmp|tiff?|webp|svg|heic|avif|psd|raw|nef|cr2|pdf)"
_AGENCY = (
    r"(?:shutterstock|i\s?stock(?:\s?photo)?|getty(?:\s?images)?|alamy|dreamstime|depositphotos"
    r"|adobe\s?stock|123rf|fotolia|bigstock|pixabay|unsplash|pexels|flickr|freepik)"
)

CROPPED = (
    rf"\b{_MADE}(?:\s+(?:was|is|{_MADE}))*{_BY}?,?(?:\s+(?:on|in|at|from))?:?\s*{_ANY_DATE}{_BY}?",
    rf"\b(?:{_MADE}\s+(?:(?:was|is)\s+)?)?{_TAKEN}{_BY}?"
    rf"(?:\s+(?:on|in|at|during|last))?:?\s+{_ROUGHLY}"
    rf"(?:(?:,|\s+of)?\s+\d{{4}}\b{_TIME}{_BY}?|{_TIME}(?:{_BY}|{_END}))",
    _FULL_DATE,
    # Links and addresses.
    r"(?:https?://|www\.)\S+",
    r"\b[\w.+-]+@[\w-]+\.[a-z]{2,}\b",
    r"\b[\w-]+(?:\.[\w-]+)*\.(?:com|net|org|info|co\.uk|html?|php|aspx?)(?:/\S*)?",
    # "image 12 of 40", "(3/12)", "photo no. 7".
    rf"\b{_PICTURE}\s*(?:no\.?|number|nr\.?|#)?\s*[(\[]?\d+[)\]]?"
    r"\s*(?:of|/|from|out\s+of)\s*\d+\b",
    rf"\b\d+\s*(?:of|/|out\s+of)\s*\d+\s*{_PICTURE}s?\b",
    r"[(\[]\s*\d+\s*(?:of|/)\s*\d+\s*[)\]]",
    rf"\b{_PICTURE}\s*(?:no\.?|number|nr\.?|#|:)?\s*\d+\b",
    rf"\b{_PICTURE}\s*[(\[]\d+[)\]]",
    # Names of files, and the counters that cameras give.
    rf"[^\s/]+\.{_EXTENSION}\b",
    r"\b(?:img|dsc[nf]?|dcim|pict|pxl|mvi|gopr|dji|image|photo|screen\s?shot)[\s_-]?\d{2,}[\w-]*",
    r"\b(?:p|r|s)\d{7,}\b",
    r"\b[0-9a-f]{16,}\b",
    r"\b\d{2,5}\s?[x×]\s?\d{2,5}(?:\s?(?:px|pixels))?\b",
    r"\b(?:untitled|unnamed|no\s+(?:title|name|caption|description|alt(?:\s+text)?))\b[-\s]*\d*",
    # What stock agencies write.
    rf"\b(?:royalty[\s-]free\s+)?stock\s+{_KIND}\b",
    rf"\b(?:royalty[\s-]free|free\s+(?:stock|download|vector)|high[\s-]resolution)\s+{_KIND}\b",
    rf"\b(?:(?:photo|image|picture)\s+)?(?:via|by|from|courtesy\s+of|©|\(c\))\s+{_AGENCY}\b.*",
    rf"\b{_AGENCY}(?:\.com)?\b",
    r"\b(?:photo(?:graph(?:ed)?)?|image|picture)s?(?:\s+taken)?\s+by:?"
    r"(?:\s+(?-i:\p{Lu})[^\s,;]*){1,4}",
    r"\b(?:photo|image|picture)\s+(?:credits?|source|courtesy)(?:\s*:|\s+(?:to|of|by))?",
    r"\b(?:image|photo|picture)s?\s+(?:may\s+be|is|are)\s+(?:subject\s+to\s+)?copyright(?:ed)?\b",
    r"(?:©|\(c\)|\bcopyright\b)\s*(?:\d{4})?",
    r"\ball\s+rights\s+reserved\b",
    # What galleries write.
    r"\bclick\s+(?:here\s+|on\s+\w+\s+)?(?:to|for)\s+(?:enlarge|zoom|view|see|a\s+larger|download)"
    r"(?:\s+\w+){0,3}",
    r"\b(?:view|see|open|show|download)\s+(?:the\s+)?(?:full|larger?|original|hi-?res)[\s-]*"
    r"(?:size|image|picture|version|resolution)?\b",
)
# What galleries and content systems write, and says that the caption is none. Sharma et al. (2018,
# section 3.2) drop text that begins or ends so, where they cut what is above.
NO_CAPTION = (
    r"\b(?:no\s+)?(?:image|photo|picture)\s+(?:not\s+)?(?:available|found|coming\s+soon|missing)\b",
    r"\b(?:embedded\s+image\s+permalink|profile\s+(?:photo|picture|image)|default\s+avatar"
    r"|placeholder(?:\s+image)?|image\s+placeholder|alt\s?text|featured\s+image|loading\s+image)\b",
)
PATTERNS = (*CROPPED, *NO_CAPTION)

# What stands between boilerplate and the rest of a caption.
_BETWEEN = r"[\s,.;:|/_~*•·–—-]*"


def at_edges(patterns: tuple[str, ...]) -> tuple[str, str]:
    """What finds one of the patterns at the start of a text, and at its end."""
    any_of = "|".join(f"(?:{pattern})" for pattern in patterns)
    edge = rf"{_BETWEEN}[(\[{{]?(?:{any_of})[)\]}}]?{_BETWEEN}"
    return rf"(?i)^{edge}", rf"(?i){edge}$"
