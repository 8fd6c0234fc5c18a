"""Makes the catalog that ships for `catcli demo`: python tests/make_demo_catalog.py

Every shop, brand and product in it is made up. It has what real exports have: shelves of three levels and of very different sizes, mixed
case, units, missing descriptions, titles that leave out the noun, shelves that overlap (a handmade mug stands under Handmade or under
Home), and some wrong labels.
"""

from __future__ import annotations

import csv
import random
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "catcli" / "data" / "demo"
LABELED, UNLABELED, WRONG, NAMELESS = 1000, 300, 0.03, 0.25

# category → (share, nouns, words that go with them, sizes)
SHELVES: dict[str, tuple[int, str, str, str]] = {
    "Home > Kitchen > Mugs & Cups": (
        9,
        "mug,cup,espresso cup,travel mug,tea bowl",
        "stoneware,porcelain,enamel,double-walled",
        "350 ml,12 oz,set of 4",
    ),
    "Home > Kitchen > Knives": (
        5,
        "chef's knife,paring knife,bread knife,santoku",
        "damascus,stainless,forged,ceramic",
        '8",20 cm,with sheath',
    ),
    "Home > Kitchen > Pans": (5, "frying pan,saucepan,skillet,wok", "cast iron,non-stick,copper,induction", '11",28 cm,2.5 l'),
    "Home > Textiles > Cushions": (
        6,
        "cushion,cushion cover,floor pillow,bolster",
        "linen,velvet,boho,quilted",
        '18x18",45 x 45 cm,2-pack',
    ),
    "Home > Textiles > Blankets": (5, "throw,blanket,bedspread,plaid", "wool,fleece,waffle,knitted", "130x170 cm,XL,queen"),
    "Home > Lighting > Table Lamps": (5, "table lamp,bedside lamp,desk light,reading lamp", "brass,dimmable,USB,wooden", "E27,40 W,35cm"),
    "Home > Lighting > String Lights": (
        3,
        "fairy lights,string lights,light chain",
        "solar,warm white,outdoor,battery",
        "10 m,100 LED,33ft",
    ),
    "Handmade > Pottery > Mugs": (4, "mug,coffee cup,tea cup,beaker", "hand-thrown,glazed,artisan,speckled", "one of a kind,300ml,pair"),
    "Handmade > Jewelry > Necklaces": (
        5,
        "necklace,pendant,choker,locket",
        "sterling silver,hammered,beaded,birthstone",
        '18",45 cm,adjustable',
    ),
    "Handmade > Jewelry > Earrings": (5, "earrings,hoops,studs,ear cuffs", "silver,resin,dangling,clay", "pair,2 cm,gift box"),
    "Handmade > Textiles > Blankets": (
        3,
        "crochet blanket,baby blanket,quilt,woven throw",
        "hand-knitted,merino,patchwork,heirloom",
        "90 x 90 cm,made to order,XL",
    ),
    "Tools > Power Tools > Drills": (
        6,
        "cordless drill,hammer drill,drill driver,impact driver",
        "brushless,2-speed,compact,SDS",
        "18V,20 V,2x 4.0 Ah",
    ),
    "Tools > Power Tools > Saws": (
        4,
        "circular saw,jigsaw,mitre saw,reciprocating saw",
        "laser guide,sliding,corded,variable speed",
        '1200W,190 mm,7-1/4"',
    ),
    "Tools > Hand Tools > Screwdrivers": (
        5,
        "screwdriver set,screwdriver,bit set,hex key set",
        "magnetic,insulated,precision,ratchet",
        "32 pcs,PH2,24in1",
    ),
    "Tools > Hand Tools > Hammers": (
        3,
        "claw hammer,mallet,sledgehammer,ball pein hammer",
        "fibreglass,rubber,hickory,forged",
        "16 oz,450g,3 lb",
    ),
    "Tools > Measuring > Tape Measures": (
        3,
        "tape measure,laser measure,folding rule,spirit level",
        "self-locking,magnetic,digital,class II",
        "5m,25ft,60 cm",
    ),
    "Grocery > Drinks > Coffee": (
        7,
        "coffee beans,ground coffee,espresso,coffee pods",
        "organic,dark roast,arabica,decaf",
        "1kg,250 g,10 capsules",
    ),
    "Grocery > Drinks > Tea": (6, "green tea,earl grey,herbal tea,chai", "loose leaf,organic,jasmine,peppermint", "20 bags,100g,tin"),
    "Grocery > Pantry > Spices": (5, "paprika,cumin,curry powder,cinnamon", "ground,smoked,organic,whole", "50 g,jar,2 oz"),
    "Grocery > Pantry > Pasta": (
        4,
        "spaghetti,penne,fusilli,lasagne sheets",
        "whole wheat,bronze-cut,gluten free,egg",
        "500g,1 lb,6x500 g",
    ),
    "Grocery > Snacks > Chocolate": (
        5,
        "dark chocolate,chocolate bar,truffles,pralines",
        "70% cocoa,sea salt,hazelnut,vegan",
        "100 g,gift box,12 x 45g",
    ),
    "Beauty > Hair > Shampoo": (
        6,
        "shampoo,shampoo bar,dry shampoo,2-in-1 shampoo",
        "anti-dandruff,argan,colour care,volume",
        "250ml,400 ml,8.5 fl oz",
    ),
    "Beauty > Skin > Creams": (
        6,
        "face cream,hand cream,night cream,moisturiser",
        "hyaluronic,shea,SPF 30,fragrance free",
        "50 ml,75ml,1.7 oz",
    ),
    "Beauty > Skin > Soaps": (3, "soap,soap bar,hand wash,cleansing bar", "olive oil,lavender,goat milk,charcoal", "100 g,set of 3,500 ml"),
    "Beauty > Make-up > Lipsticks": (4, "lipstick,lip gloss,lip liner,lip balm", "matte,nude,long-lasting,tinted", "4 g,no. 12,3.5g"),
}
BRANDS = [
    "Norvik",
    "Halden & Co",
    "Tessaro",
    "Bluefern",
    "Oakmere",
    "KRAFTLIN",
    "Pellworm",
    "Sunniva",
    "Ardent",
    "Mirabelle",
    "Grunwald",
    "Solent",
    "Tamarack",
    "Quillon",
]
OPENINGS = ["This {noun} is", "A {noun} that is", "Our {noun}:", "Meet the {noun}", "You will like this {noun}:"]
PRAISE = ["made to last", "easy to clean", "a fine gift", "for every day", "loved by customers", "back in stock", "new this season"]
# Shelves where a shop's staff would hesitate; wrong labels come from these first.
OVERLAPS = [
    ("Home > Kitchen > Mugs & Cups", "Handmade > Pottery > Mugs"),
    ("Home > Textiles > Blankets", "Handmade > Textiles > Blankets"),
    ("Beauty > Skin > Creams", "Beauty > Skin > Soaps"),
]


def product(shelf: str, random_: random.Random) -> dict[str, str]:
    """One made-up product of a shelf."""
    _, *choices = SHELVES[shelf]
    nouns, words, sizes = (choice.split(",") for choice in choices)
    noun, word, size, brand = (random_.choice(some) for some in (nouns, words, sizes, BRANDS))
    # Some shops leave out what a thing is, where the picture shows it.
    parts = [word, size] if random_.random() < NAMELESS else [word, noun, size]
    if random_.random() < 0.5:
        parts.insert(0, brand)
    title = " ".join(parts)
    title = random_.choice([title, title, title.title(), title.upper(), title.capitalize()])
    description = f"{random_.choice(OPENINGS).format(noun=noun)} {random_.choice(words)}, {random_.choice(PRAISE)}."
    return {
        "sku": f"{random_.randrange(10**6):06d}",
        "title": title,
        "brand": brand if random_.random() < 0.8 else "",
        "description": description if random_.random() < 0.6 else "",
        "price": f"{random_.uniform(2, 120):.2f}",
        "category": shelf,
    }


def mislabeled(shelf: str, random_: random.Random) -> str:
    """The shelf that a hurried colleague would have chosen."""
    for pair in OVERLAPS:
        if shelf in pair:
            return pair[1 - pair.index(shelf)]
    return random_.choice(list(SHELVES))


def make() -> dict[str, list[dict[str, str]]]:
    """The rows of both files, the same at every call."""
    random_ = random.Random(2026)
    shelves = random_.choices(list(SHELVES), weights=[share for share, *_ in SHELVES.values()], k=LABELED + UNLABELED)
    rows = [product(shelf, random_) for shelf in shelves]
    for row in rows[:LABELED]:
        if random_.random() < WRONG:
            row["category"] = mislabeled(row["category"], random_)
    return {
        "products.csv": rows[:LABELED],
        "catalog.csv": [{name: cell for name, cell in row.items() if name != "category"} for row in rows[LABELED:]],
    }


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, rows in make().items():
        with (FOLDER / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        print(FOLDER / name, len(rows), "rows")
