"""Reads an HTML page for tests: tables, alternative texts, attributes; fails where tags do not match."""

from html.parser import HTMLParser


VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """What is on a page.

    Attributes:
        tables: caption to rows of texts, the headings first; a group's row has one text.
        alternatives: of the pictures.
        attributes: `(tag, name, value)`.
        ids: all of them.
        text: the page as words, without styles and scripts.
    """

    def __init__(self, text):
        super().__init__()
        self.tables, self.alternatives, self.attributes, self.ids, self.text = {}, [], [], [], ""
        self._open, self._caption = [], None
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_startendtag(self, tag, attributes):
        self.attributes += [(tag, name, value) for name, value in attributes]
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_starttag(self, tag, attributes):
        assert tag not in self._open or tag in ("div", "details", "g", "section"), f"<{tag}> inside <{tag}>"
        self.attributes += [(tag, name, value) for name, value in attributes]
        values = dict(attributes)
        if "id" in values:
            self.ids.append(values["id"])
        if values.get("role") == "img":
            self.alternatives.append(values["aria-label"])
        if tag not in VOID:
            self._open.append(tag)
        if tag == "caption":
            self._caption = ""
        if tag == "tr":
            self.tables[self._caption].append([])
        if tag in ("td", "th"):
            self.tables[self._caption][-1].append("")

    def handle_endtag(self, tag):
        assert self._open and self._open[-1] == tag, f"</{tag}> closes {self._open[-1:]}"
        self._open.pop()
        if tag == "caption":
            caption, count = self._caption, 2
            while self._caption in self.tables:  # strata share captions
                self._caption, count = f"{caption} ({count})", count + 1
            self.tables[self._caption] = []

    def handle_data(self, data):
        if "caption" in self._open:
            self._caption += data
        elif {"td", "th"} & set(self._open):
            self.tables[self._caption][-1][-1] += data
        if not {"style", "script"} & set(self._open):
            self.text += data
