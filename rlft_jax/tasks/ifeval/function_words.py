"""The small words that every text of a language is full of, to tell languages by."""

_LISTS = {
    # Latin script
    "en": """the of and to in is that it was for on are as with his they be at this have from or
        had by but some what there we can out other were all your when how an each she he which do
        their if will not you my me our has would so who its i""",
    "es": """el la de que y en los un las se del por con una no para su al es lo como más pero sus
        le ya o este sí porque esta son entre está cuando muy sin sobre ser también me hasta hay
        donde quien desde todo nos""",
    "pt": """o a de que e do da em um para com não uma os no se na por mais as dos como mas ao ele
        das à seu sua ou quando muito nos já eu também só pelo pela até isso ela entre depois sem
        mesmo aos seus são você é está foi""",
    "fr": """le la de et les des en un une du que est pour qui dans a par plus pas au sur ne se ce
        il sont avec son mais comme ou si leur elle nous vous être cette aux ont je ses ces
        même""",
    "de": """der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch
        es an werden aus er hat dass sie nach wird bei einer um am sind noch wie einem über einen
        so zum war haben nur oder aber vor zur bis mehr durch ich wir""",
    "it": """il di che e la in un è per una non sono con del si da le dei della al nel come più i
        gli alla anche ma lo ha o delle su questo se dal degli nella tra essere ci loro tutti
        suo sua""",
    "nl": """de het een van en in is dat op te zijn voor met die niet aan er om ook als dan maar
        bij nog uit naar heeft hij ze wordt door over wel kan geen worden deze je ik we""",
    "sv": """och i att det som en på är av för med till den har de inte om ett han men var jag
        sig från vi så kan när år under också eller nu hon ska skulle deras än""",
    "da": """og i at det er en af til på de med for den som der ikke har et var men han om sig fra
        vi så kan blev eller havde ud nu hun hvor skal hvis deres meget efter jeg alle""",
    "no": """og i det er en av til på som med for at de den har ikke et var men han om seg fra vi
        så kan ble eller hadde ut nå hun hvor skal hvis deres mye etter jeg alle være""",
    "fi": """ja on ei se että oli ovat hän mutta myös kuin joka tai niin kun sen mukaan ole kanssa
        vain jos nyt jo hänen ollut voi mitä tämä ne minä sinä me te he olla sitä siitä tämän""",
    "pl": """w i na z się do nie że jest to o od jak po za co przez dla tym a są może ale jego
        oraz tylko ich jako czy który przy ma być lub już które go tak tego bardzo by""",
    "cs": """a v se na je že to s z do o i ve pro za by jsem ale jako po jak jsou k od tak které
        byl nebo jeho který podle není při už co aby bylo jen má si""",
    "hu": """a az és hogy nem is egy ez csak meg de ha van volt már még mint azt el minden vagy
        lehet ki kell azért ezt majd amely után szerint pedig""",
    "ro": """și de în a la cu pe nu o că din este un mai pentru care se au sau fost după dar ca
        sunt fi prin ai cel când despre lui lor fiecare aceasta""",
    "tr": """ve bir bu da de için ile çok daha olarak ne en gibi kadar sonra ama ben o var mi
        olan her ya değil şey onun ki biz veya olduğu""",
    "id": """yang dan di itu dengan untuk tidak ini dari dalam akan pada juga ke karena ada bisa
        oleh saya atau adalah mereka kita sudah lebih anda seperti dapat kami telah""",
    "vi": """và của là có không được cho trong một những các với người này đã để khi ở đó về tôi
        như cũng từ sẽ rất nhiều ra đến còn phải bạn vào nhưng""",
    "sw": """ya na wa kwa ni za la katika cha kuwa hii kama yake hiyo lakini au si vya huo wake
        mtu watu pia ili hivyo moja yao zaidi baada kila hata wao yangu sana hapa mimi wewe
        ambayo ambao""",
    "tl": """ang ng sa mga na at ay ko mo ito para hindi siya niya kung may ni si nang isang ako
        ka po rin lang mas""",
    # Cyrillic script
    "ru": """и в не на я что он с как это по но они мы из у за от так же для его все вы бы ты о
        или к если только еще была быть был есть когда эта этот""",
    "uk": """і в не на я що він з як це по але вони ми із у за від так для його все ви б ти про
        або до якщо тільки ще була бути був є коли та й ця цей""",
    "bg": """и в не на аз че той с как това по но те ние от за да се са е си ще до го или ако
        само още беше бъде има когато която този тази бил със при""",
    # Arabic script
    "ar": """في من على أن إلى التي الذي هذا هذه عن مع كان لا ما هو هي كل بعد قد بين ذلك عند لم
        ثم أو كما إن حيث و لكن يمكن""",
    "fa": """و در به از که این را با است برای آن یک خود تا می بر هم نیز شده بود شود اما یا
        باید ما من هر دارد کرد های کند نمی""",
    "ur": """کے میں کی ہے اور سے کا کو اس نے ہیں کہ پر یہ ایک بھی تھا وہ ہو جو نہیں کر گیا ان
        تو لئے لیے کیا یا آپ ہم میرا مجھے""",
    # Devanagari script
    "hi": """के में की है और से का को पर ने यह हैं कि एक भी था वह हो जो नहीं कर गया इस तो लिए
        या आप हम ही थे थी मैं मेरे अपने""",
    "mr": """आहे आणि या व हे ते तो ती मी च्या आहेत नाही होते होता का की पण तर केले म्हणून करून
        त्या त्याच्या झाले आपण आपल्या मध्ये असे काही सर्व किंवा साठी माझ्या""",
    "ne": """छ र को मा लाई पनि हो यो का छन् गर्न भने एक गरेको थियो त्यो म हामी तर लागि छैन भएको
        यस गरी गर्ने उनले तथा सबै प्रत्येक वा हुन्छ""",
}

FUNCTION_WORDS = {language: frozenset(words.split()) for language, words in _LISTS.items()}

_ENDINGS = {
    "en": "ing ings tion tions ly th ed ght sh ck ness ment ould ies ys ow ive ence ance 's n't",
    "es": "ción ciones dad ado ada ados adas ando iendo mente ito ero ario able ones eza ar er ir",
    "pt": "ção ções dade ado ada ados adas ando endo mente inho inha agem ável ões ar er ir em",
    "fr": "tion tions eur eurs eux ement ments ait aient ique elle ette esse able ion er ez eau",
    "de": "ung ungen lich keit heit isch schen ten cht chen ern tzt elt ein ger nd ig",
    "it": "zione zioni ità ato ata ati ate ando endo mente ggio ello ella are ere ire ono",
    "pl": "ość ości anie enie ego emu ych ymi ach ami ować cie ów ny sk",
    "sw": "isha wa ika ia ani yo zi ji aji isho ndo",
    "fi": "nen ssa ssä sta stä lla llä lta ltä lle ksi tta ttä aan ään een inen uus yys kää",
    "nl": "ing ingen lijk heid ische eren elen aar den tje oor eer oet oek aag aat",
    "sv": "ning ningar lig liga igt ande ade ar or et en na ör ska ande",
    "da": "ning lig lige ende ede er et en else hed ske",
    "no": "ning lig lige ende er et en else het ske inger",
    "cs": "ost osti ání ení ého ému ých ými ách ami ovat ý í ě",
    "hu": "ság ség ban ben nak nek hoz ból ből ának ének ok ek ott ett ni",
    "ro": "ția țiile ului ilor ea ele ează are ești ul ii at ată",
    "tr": "lar ler ları leri dır dir dan den ında inde mak mek yor ın in ması mesi",
    "id": "kan nya ang an asi ung ah uk",
    "tl": "ang an in yan han",
    "ru": "ость ение ание ого его ому ый ий ая ое ые ых ать ить ться ов ами ся",
    "uk": "ість ення ання ого ому ий ій ати ити ися ів ами ові ться",
    "bg": "ост ение ание ът ят та то те ите ата ото ва ане ия ият",
    "hi": "ना ता ते ती ने या ये ों ें ओं ाएँ ाएं िए िक ाई",
    "mr": "च्या चा ची चे ला णे त ात ाने ून ली ले ल्या ण्या नी तो ते ती ांना ावे ार",
    "ne": "को का लाई हरू ले मा छ छन् नु एको ने हुन् हरूको ोस् र्न",
}

ENDINGS = {language: tuple(endings.split()) for language, endings in _ENDINGS.items()}
