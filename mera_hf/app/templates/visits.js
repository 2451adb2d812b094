// Clicks and typing become actions that Python carries out. The list of codes found is the browser's own: it comes and goes
// with every key, and Python is asked only what belongs in it.
let asked = 0;
let searching; // the search for what was typed last
let acted = false;

const act = (action) => {
  acted = true;
  trigger("edit", action);
};

const listOf = (input) => element.querySelector(`#${input.getAttribute("aria-controls")}`);

const close = (input) => {
  asked += 1;
  const list = listOf(input);
  if (!list) return;
  list.hidden = true;
  list.replaceChildren();
  input.setAttribute("aria-expanded", "false");
  input.removeAttribute("aria-activedescendant");
};

const mark = (input, option) => {
  for (const other of listOf(input).children) other.setAttribute("aria-selected", String(other === option));
  input.setAttribute("aria-activedescendant", option.id);
  option.scrollIntoView({ block: "nearest" });
};

const take = (input, option) => {
  const { code } = option.dataset;
  close(input);
  input.value = "";
  act({ do: "add-code", visit: Number(input.dataset.visit), code });
};

// Who types fast is ahead of the list: Enter takes what is found for all that was typed
const takeMarked = async (input) => {
  await searching;
  const option = listOf(input)?.querySelector("[aria-selected=true]");
  if (option) take(input, option);
};

const search = async (input) => {
  const turn = (asked += 1);
  if (!input.value.trim()) return close(input);
  await new Promise((resolve) => setTimeout(resolve, 60));
  if (turn !== asked) return;
  const found = await server.find(input.value);
  if (turn !== asked) return; // something else was typed meanwhile
  const list = listOf(input);
  list.replaceChildren(
    ...found.map(({ code, short, description }, place) => {
      const option = document.createElement("li");
      option.id = `${list.id}-${place}`;
      option.role = "option";
      option.dataset.code = code;
      const [name, words] = [document.createElement("span"), document.createElement("span")];
      name.className = "code";
      name.textContent = short;
      words.textContent = description;
      option.append(name, " ", words);
      return option;
    })
  );
  if (!found.length) {
    const none = document.createElement("li");
    none.className = "none";
    none.textContent = "No code of this model fits. Try fewer letters or another word.";
    list.append(none);
  }
  list.hidden = false;
  input.setAttribute("aria-expanded", String(found.length > 0));
  if (found.length) mark(input, list.firstElementChild);
  element.querySelector("[data-heard]").textContent = found.length === 1 ? "1 code found" : `${found.length} codes found`;
};

element.addEventListener("input", ({ target }) => {
  if (target.matches("[role=combobox]")) searching = search(target);
});

element.addEventListener("keydown", (event) => {
  const input = event.target;
  if (!input.matches("[role=combobox]") || event.isComposing) return;
  const options = [...listOf(input).querySelectorAll("[role=option]")];
  const place = options.findIndex((option) => option.getAttribute("aria-selected") === "true");
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    if (!options.length) return void (searching = search(input));
    const step = event.key === "ArrowDown" ? 1 : -1;
    mark(input, options[(place + step + options.length) % options.length]);
  } else if (event.key === "Enter") {
    takeMarked(input);
  } else if (event.key === "Escape") {
    close(input);
  } else if (event.key === "Backspace" && !input.value) {
    const codes = element.querySelectorAll(`[data-do=remove-code][data-visit="${input.dataset.visit}"]`);
    if (!codes.length) return;
    const { visit, code } = codes[codes.length - 1].dataset;
    act({ do: "remove-code", visit: Number(visit), code });
  } else {
    return;
  }
  event.preventDefault();
});

// Before the click, so that the input keeps the keyboard
element.addEventListener("mousedown", (event) => {
  if (event.target.closest(".found")) event.preventDefault();
});

element.addEventListener("click", ({ target }) => {
  const option = target.closest("[role=option]");
  if (option) return take(option.closest(".search").querySelector("input"), option);
  const button = target.closest("[data-do]");
  if (!button) return;
  const { do: name, visit, by, code } = button.dataset;
  act({ do: name, visit: Number(visit ?? 1), by: Number(by ?? 0), code });
});

element.addEventListener("focusout", ({ target }) => {
  if (target.matches("[role=combobox]")) close(target);
});

watch("value", () => {
  if (!acted) return;
  acted = false;
  const focus = element.querySelector(".visits").dataset.focus;
  if (focus) element.querySelector(`#${focus}`)?.focus();
});
