"""Which language a text is in."""

import pytest

from rlft_jax.tasks.ifeval.language import LANGUAGES, language_of

# Article 1 of the Universal Declaration of Human Rights, in the languages that IFEval asks for.
ARTICLE_1 = {
    "en": (
        "All human beings are born free and equal in dignity and rights. They are"
        " endowed with reason and conscience and should act towards one another in a"
        " spirit of brotherhood."
    ),
    "es": (
        "Todos los seres humanos nacen libres e iguales en dignidad y derechos y,"
        " dotados como están de razón y conciencia, deben comportarse fraternalmente"
        " los unos con los otros."
    ),
    "pt": (
        "Todos os seres humanos nascem livres e iguais em dignidade e em direitos."
        " Dotados de razão e de consciência, devem agir uns para com os outros em"
        " espírito de fraternidade."
    ),
    "ar": (
        "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق. وقد وهبوا عقلاً وضميرًا"
        " وعليهم أن يعامل بعضهم بعضًا بروح الإخاء."
    ),
    "hi": (
        "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता"
        " प्राप्त है। उन्हें बुद्धि और अन्तरात्मा की देन प्राप्त है और परस्पर उन्हें"
        " भाईचारे के भाव से बर्ताव करना चाहिए।"
    ),
    "fr": (
        "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils"
        " sont doués de raison et de conscience et doivent agir les uns envers les"
        " autres dans un esprit de fraternité."
    ),
    "ru": (
        "Все люди рождаются свободными и равными в своём достоинстве и правах. Они"
        " наделены разумом и совестью и должны поступать в отношении друг друга в духе"
        " братства."
    ),
    "de": (
        "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit"
        " Vernunft und Gewissen begabt und sollen einander im Geist der Brüderlichkeit"
        " begegnen."
    ),
    "ja": (
        ""
        "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。人間は、理性と良心とを授けられており、互いに同胞の精神をもって行動しなければならない。"
    ),
    "it": (
        "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti. Essi"
        " sono dotati di ragione e di coscienza e devono agire gli uni verso gli altri"
        " in spirito di fratellanza."
    ),
    "bn": "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে।",
    "uk": (
        "Всі люди народжуються вільними і рівними у своїй гідності та правах. Вони"
        " наділені розумом і совістю і повинні діяти у відношенні один до одного в дусі"
        " братерства."
    ),
    "th": "มนุษย์ทั้งปวงเกิดมามีอิสระและเสมอภาคกันในศักดิ์ศรีและสิทธิ",
    "ur": (
        "تمام انسان آزاد اور حقوق و عزت کے اعتبار سے برابر پیدا ہوئے ہیں۔ انہیں ضمیر"
        " اور عقل ودیعت ہوئی ہے۔"
    ),
    "ta": "மனிதப் பிறிவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.",
    "te": ("ప్రతిపత్తిస్వత్వముల విషయమున మానవులెల్లరును జన్మతః స్వతంత్రులును సమానులును నగుదురు."),
    "bg": (
        "Всички хора се раждат свободни и равни по достойнство и права. Те са надарени"
        " с разум и съвест и следва да се отнасят помежду си в дух на братство."
    ),
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "pl": (
        "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych"
        " praw. Są oni obdarzeni rozumem i sumieniem i powinni postępować wobec innych"
        " w duchu braterstwa."
    ),
    "he": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "fa": (
        "تمام افراد بشر آزاد به دنیا می‌آیند و از لحاظ حیثیت و حقوق با هم برابرند. همه"
        " دارای عقل و وجدان هستند و باید نسبت به یکدیگر با روح برادری رفتار کنند."
    ),
    "vi": (
        "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền."
        " Mọi con người đều được tạo hóa ban cho lý trí và lương tâm và cần phải đối xử"
        " với nhau trong tình bằng hữu."
    ),
    "ne": (
        "सबै व्यक्तिहरू जन्मजात स्वतन्त्र हुन् ती सबैको समान अधिकार र महत्व छ। निजहरूमा"
        " विचार शक्ति र सद्विचार भएकोले निजहरूले आपसमा भातृत्वको भावनाबाट व्यवहार गर्नु"
        " पर्छ।"
    ),
    "sw": (
        "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa. Wote wamejaliwa akili na"
        " dhamiri, hivyo yapasa watendeane kindugu."
    ),
    "kn": "ಎಲ್ಲಾ ಮಾನವರೂ ಸ್ವತಂತ್ರರಾಗಿಯೇ ಜನಿಸಿದ್ದಾರೆ.",
    "mr": (
        "सर्व मानवी व्यक्ति जन्मतःच स्वतंत्र आहेत व त्यांना समान प्रतिष्ठा व समान"
        " अधिकार आहेत. त्यांना विचारशक्ति व सदसद्विवेकबुद्धि लाभलेली आहे व त्यांनी"
        " एकमेकांशी बंधुत्वाच्या भावनेने आचरण करावे."
    ),
    "gu": "પ્રતિષ્ઠા અને અધિકારોની દૃષ્ટિએ સર્વ માનવો જન્મથી સ્વતંત્ર અને સમાન હોય છે.",
    "pa": (
        "ਸਾਰਾ ਮਨੁੱਖੀ ਪਰਿਵਾਰ ਆਪਣੀ ਮਹਿਮਾ, ਸ਼ਾਨ ਅਤੇ ਹੱਕਾਂ ਦੇ ਪੱਖੋਂ ਜਨਮ ਤੋਂ ਹੀ ਆਜ਼ਾਦ ਹੈ ਅਤੇ ਸੁਤੇ ਸਿੱਧ ਸਾਰੇ ਲੋਕ ਬਰਾਬਰ ਹਨ।"
    ),
    "ml": ("മനുഷ്യരെല്ലാവരും തുല്യാവകാശങ്ങളോടും അന്തസ്സോടും സ്വാതന്ത്ര്യത്തോടുംകൂടി ജനിച്ചിട്ടുള്ളവരാണ്."),
    "fi": (
        "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan."
        " Heille on annettu järki ja omatunto, ja heidän on toimittava toisiaan kohtaan"
        " veljeyden hengessä."
    ),
}


@pytest.mark.parametrize("language", ARTICLE_1)
def test_the_declaration_of_human_rights_in_each_language_is_told(language):
    text = ARTICLE_1[language]
    assert language in LANGUAGES
    assert language_of(text) == language
    assert language_of(text.upper()) == language
    # Half of it is enough.
    words = text.split()
    for part in words[: len(words) // 2], words[len(words) // 2 :]:
        assert language_of(" ".join(part)) == (language if part else None)


def test_there_are_all_thirty_languages_of_the_published_code():
    assert len(ARTICLE_1) == 30


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("", None),
        ("42 + 1 = 43 😀", None),
        ("coffee beans", "en"),
        ("PRESIDENT'S DAY, HERE'S WHAT IT'S ABOUT", "en"),
        ("El Niño is what they call it, and it is the reason for all of this.", "en"),
        ("Vele nel vento\nil mare canta piano\ncorre lo yacht", "it"),
        ("धावत निघालो\nबस गेली पुढे आता\nघाम आणि मी", "mr"),
        ("漢字だけではない", "ja"),
        ("只有汉字", "zh"),
        ("मेरा नाम John Smith है और मैं London में रहता हूँ", "hi"),
        ("Καλημέρα", "el"),
    ],
)
def test_short_and_mixed_texts(text, language):
    assert language_of(text) == language
