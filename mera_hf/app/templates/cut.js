// The line follows the hand at once; Python makes the new set and sends the ranking.
const place = (input) => (100 * (input.value - input.min)) / (input.max - input.min);

let at = null; // where the hand put it; nobody else moves it

const move = (input) => {
  const root = element.querySelector(".cut");
  const value = Number(input.value);
  at = value === Number(root.dataset.eov) ? null : value;
  root.style.setProperty("--at", `${place(input)}%`);
  for (const tick of element.querySelectorAll(".tick")) tick.classList.toggle("in", Number(tick.dataset.value) > value);
  const { unit } = root.dataset;
  const number = (unit === "logit" ? value : 100 * value).toFixed(1);
  const shown = unit === "probability" ? `${number}\u202f%` : (value < 0 ? number.replace("-", "\u2212") : `+${number}`);
  element.querySelector("output").textContent = shown;
  input.setAttribute("aria-valuetext", shown);
  props.value = { ...props.value, at };
  trigger("cut");
};

element.addEventListener("input", ({ target }) => move(target));

// `step="any"` lets the line stand exactly on EOV, and leaves the size of a press of a key to the page
element.addEventListener("keydown", (event) => {
  const input = event.target;
  if (!input.matches("[type=range]")) return;
  const step = Number(input.dataset.step);
  const moves = { ArrowRight: step, ArrowUp: step, ArrowLeft: -step, ArrowDown: -step, PageUp: 10 * step, PageDown: -10 * step };
  if (!(event.key in moves)) return;
  event.preventDefault();
  input.value = Math.min(input.max, Math.max(input.min, Number(input.value) + moves[event.key]));
  move(input);
});

element.addEventListener("click", ({ target }) => {
  if (!target.closest(".eov")) return;
  const input = element.querySelector("[type=range]");
  input.value = element.querySelector(".cut").dataset.eov;
  move(input);
});

// A scale that was drawn before the hand moved on
watch("value", () => {
  const input = element.querySelector("[type=range]");
  if (!input || props.value.at === at) return;
  input.value = at ?? element.querySelector(".cut").dataset.eov;
  move(input);
});
