// A table for a spreadsheet, and the record as a file. Both are made in the browser, so that no server keeps a copy.
const record = () => JSON.parse(element.querySelector(".ranking").dataset.record);

const table = ({ ranking }) => {
  const columns = Object.keys(ranking[0]);
  return [columns, ...ranking.map((row) => columns.map((column) => row[column]))].map((row) => row.join("\t")).join("\n");
};

const copy = async (text) => {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea"); // a page without https has no clipboard
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
};

const save = (text) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = "mera-ranking.json";
  link.click();
  URL.revokeObjectURL(link.href);
};

const say = (button, done) => {
  const [label, heard] = [button.querySelector("span"), element.querySelector("[data-heard]")];
  const before = label.textContent;
  label.textContent = heard.textContent = done;
  setTimeout(() => {
    if (label.textContent === done) label.textContent = before;
  }, 1600);
};

element.addEventListener("click", async ({ target }) => {
  const button = target.closest("button");
  if (!button) return;
  if (button.dataset.code) {
    trigger("choose", { code: button.dataset.code });
    document.dispatchEvent(new Event("mera-chosen"));
    return;
  }
  if (button.dataset.take === "copy") {
    await copy(table(record()));
    say(button, "Copied");
  } else if (button.dataset.take === "save") {
    save(JSON.stringify(record(), null, 2));
    say(button, "Saved");
  }
});
