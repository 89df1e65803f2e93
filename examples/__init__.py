"""Architectures of the field, each a short program that trains on data found on any machine.

`python -m examples NAME` runs one, `python -m examples --all --out gallery` all of them with a page of their pictures.
An example is a module whose docstring says what it shows, on which data and with which metric, and that has

    def main(small: bool = False, out: Path = Path(".")) -> dict

`small` is the form that ends well within a minute on one core; pictures go to `out`. It gives {"metric": its name,
"value": what was reached, "expected": what should be, "higher": whether more is better, "pictures": [paths]}. Keyword
parameters after these are options: `python -m examples lstm_text --set cell=GRU`.
"""
