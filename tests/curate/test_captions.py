import pyarrow as pa
import pytest

from pipelines.curate.captions import caption_reasons, caption_texts, word_count
from pipelines.curate.config import CurateConfig
from pipelines.curate.language import Detected, load_detector, wrong_language
from pipelines.curate.reasons import Reason

CONFIG = CurateConfig()


def reason(caption: str, config: CurateConfig = CONFIG) -> str | None:
    # A neighbour on each side shows that rows do not leak into each other.
    column = pa.array(["a dog runs home", caption, "a cat sleeps there"], pa.string())
    before, found, after = caption_reasons(column, config).to_pylist()
    assert before is None
    assert after is None
    return found


@pytest.mark.parametrize(
    "caption",
    [
        "a dog runs on the beach",
        "woman firefighter: medium-dark skin tone as an emoji",
        "the cat and the dog and the bird and the fish",
        "A dog on a beach, photographed on 3 May 2019",
        "sunset over the harbour of Oslo in 1998",
        "three of four players in image 12 of 40",
        "two dogs running on a beach (3/12)",
        "photo by the sea at night",
        "a view of the 2nd street in Boston",
        "the may flower sails 10 miles",
        "the Boeing 747 at the airport",
        "a photograph of a Sunday market",
        "spring flowers in may",
        "image of 12 of the apostles",
        "people photographed by the sea in summer clothes",
        "a summer dress captured in spring light",
        "photo taken at the Sunday market",
        "photo from Mars 2020 rover landing site",
        "the third march of the penguins",
        "trains taken at 10:30 speed through Oslo",
        "mai tai on a wooden table",
        "a fall in the mountains of May",
        "buy now, pay later, says the sign",
        "dogs, dogs and more dogs",
        "小さな茶色の犬が朝の浜辺を走っていて、その後ろを白い猫が追いかけているのが見えます。"
        "空は青く、遠くには小さな船と灯台があり、子供たちは砂の城を作っています。",
        "สุนัขสีน้ำตาลตัวเล็กกำลังวิ่งอยู่บนชายหาดในตอนเช้าที่มีแสงแดด",
        "犬が浜辺を走っている",
    ],
)
def test_captions_that_say_something_are_kept(caption: str) -> None:
    assert reason(caption) is None


@pytest.mark.parametrize("caption", ["", "dog", "a dog", "a - dog", "犬だ", "x y"])
def test_too_short(caption: str) -> None:
    assert reason(caption) == Reason.CAPTION_TOO_SHORT


def test_three_words_of_too_few_characters_are_too_short() -> None:
    assert reason("a b c") is None
    assert reason("a b c", CurateConfig(min_characters=6)) == Reason.CAPTION_TOO_SHORT


def test_too_long() -> None:
    words = [f"w{i}" for i in range(257)]
    assert reason(" ".join(words)) == Reason.CAPTION_TOO_LONG
    assert reason(" ".join(words[:256])) is None
    assert reason("x" * 1000 + " y z" + "q" * 1000) == Reason.CAPTION_TOO_LONG


@pytest.mark.parametrize(
    "caption",
    [
        "sale sale sale",
        "Buy buy BUY now buy",
        "cat cat cat dog dog",
        "sale, sale, sale!",
        "Sale! sale. SALE, sale? sale;",
        "buy now, buy now! buy now.",
        "«buy-now» buy/now (BUY) now",
        "犬犬犬犬犬犬犬犬",
        "犬、犬、犬、犬",
        "かわいい犬" * 10,
    ],
)
def test_repetition(caption: str) -> None:
    assert reason(caption) == Reason.CAPTION_REPETITIVE


@pytest.mark.parametrize(
    "caption",
    [
        "photographed on 12 May 2019",
        "Photographed on May 12th, 2019 at 10:30 am",
        "photo taken on 2019-05-12",
        "Picture taken 12/05/2019 10:30:11",
        "Photo was taken on Sunday, 12 May 2019",
        "Uploaded on the 3rd of March 2020",
        "image captured in December 2011",
        "Image 12 of 40",
        "photo 3 / 17",
        "picture number 3 out of 9",
        "IMG_20190512_103011.jpg my photo",
        "DSC_0042 from camera",
        "see https://example.org/a-cat-on-a-mat.html",
        "www.example.org for more",
        "stock photo of cat",
        "Click here to enlarge the image",
        "all rights reserved 2019",
        "no image available yet",
        "P1010001.JPG",
        "12.05.2019 10:30",
        "2019-05-12T10:30:11Z",
        "Fri, 12 May 2019 10:00:00 GMT",
        "5/12/19 at 10:30 PM",
        "May 12th '19",
        "20190512_103011",
        "Oslo, 12-May-2019",
        "2019年5月12日",
        "Screenshot 2019-05-12 at 10.30.11",
        "1920x1080 wallpaper",
        "3 of 12 photos",
        "my cat (3/12)",
        "Photo by Jane Doe via Getty Images",
        "Copyright 2019 John Smith",
        "royalty free stock photography of cat",
        "embedded image permalink",
        "untitled 3",
        "image may be subject to copyright",
        "view larger image",
        "d41d8cd98f00b204e9800998ecf8427e dog",
        "photographed on the twelfth of May 2019",
        "photographed on the twenty-first of May 2019",
        "photographed in spring 2019",
        "Photographed in the late summer of 2019 by Jane Doe",
        "photographed by John Smith on 3 May 2019",
        "photographed by J. R. Smith, 2019",
        "photographed on 3 May 2019 by John Smith",
        "Photographed on 12 mai 2019",
        "Uploaded on 12. März 2019 at 10:30",
        "photo taken on 1er août 2019",
        "image posted on 12 de mayo de 2019",
        "taken 3 grudnia 2019 in Oslo",
        "Photographed on Sunday",
        "photo was taken on Sunday morning by Jane Doe",
        "Picture taken last Saturday, Oslo",
        "photo taken in May",
        "image (12) of 40",
        "photo [3] / 17",
        "my picture (2)",
        "Photo taken at 10:30 am",
        "uploaded at 10 pm",
    ],
)
def test_boilerplate(caption: str) -> None:
    assert reason(caption) == Reason.CAPTION_BOILERPLATE


@pytest.mark.parametrize(
    ("caption", "left"),
    [
        ("Sunset over the harbour - stock photo", "Sunset over the harbour"),
        ("Stock photo: two dogs run (3/12) | Getty Images", "two dogs run"),
        ("A dog on a beach, photographed on 3 May 2019", "A dog on a beach"),
        ("IMG_1234.jpg the old town hall", "the old town hall"),
        ("the old town hall (photographed on 3 May 2019)", "the old town hall"),
        ("a stock photo of the town hall", "a stock photo of the town hall"),
        ("photographed on 12 May 2019", "photographed on 12 May 2019"),
        ("two dogs | stock photo", "two dogs | stock photo"),
    ],
)
def test_boilerplate_is_cropped_on_request_where_enough_is_left(caption: str, left: str) -> None:
    found = caption_texts([caption], CurateConfig(crop_boilerplate=True))
    assert found.to_pylist() == [left]
    assert caption_texts([f" {caption}\t"], CONFIG).to_pylist() == [caption]


def test_boilerplate_is_kept_on_request() -> None:
    kept = CurateConfig(drop_boilerplate=False)
    assert reason("photographed on 12 May 2019", kept) is None
    assert reason("IMG_1234.jpg", kept) == Reason.CAPTION_TOO_SHORT


def test_words_are_counted_in_scripts_with_and_without_spaces() -> None:
    captions = pa.array(["it's a dog", "犬と猫", "Hund – Katze", "10 dogs", "회색 고양이", ""])
    assert word_count(captions).to_pylist() == [3, 3, 2, 2, 2, 0]


def test_no_captions_give_no_reasons() -> None:
    assert caption_reasons(pa.array([], pa.string()), CONFIG).to_pylist() == []


@pytest.mark.parametrize("name", ["lid176", "cld3"])
def test_detectors_tell_long_captions_apart(name: str) -> None:
    captions = [
        "A small brown dog is running along the sandy beach in the morning sun",
        "Ein kleiner brauner Hund läuft am Morgen über den sonnigen Sandstrand",
        "小さな茶色の犬が朝の浜辺を走っています",
    ]
    found = load_detector(name)(captions)
    assert found.lang.to_pylist() == ["en", "de", "ja"]
    assert all(0.5 < score <= 1 for score in found.score.to_pylist())


def test_the_language_and_its_score_decide() -> None:
    found = Detected(pa.array(["en", "en", "de"]), pa.array([0.9, 0.3, 0.9], pa.float32()))
    config = CurateConfig(min_language_score=0.5)
    assert wrong_language(found, config).to_pylist() == [None, Reason.LANGUAGE, Reason.LANGUAGE]


def test_an_unknown_detector_is_refused() -> None:
    with pytest.raises(ValueError, match="choose one of"):
        load_detector("other")


def test_a_row_s_reason_does_not_depend_on_its_neighbours() -> None:
    captions = ["a dog runs home", "sale sale sale", "photo 12", "x", "12.05.2019 10:30"] * 40
    together = caption_reasons(pa.array(captions), CONFIG).to_pylist()
    alone = [caption_reasons(pa.array([c]), CONFIG).to_pylist()[0] for c in captions[:5]] * 40
    assert together == alone
