element.addEventListener("click", ({ target }) => {
  const button = target.closest("button");
  if (!button) return;
  if (button.dataset.code) return trigger("choose", { code: button.dataset.code });
  const chosen = document.querySelector(".ranking [aria-pressed=true]") ?? document.querySelector(".ranking button");
  chosen?.focus();
  chosen?.scrollIntoView({ block: "center" });
});

// Where the reasons stand below the ranking, they would change out of sight
document.addEventListener("mera-chosen", () => {
  const article = element.querySelector(".of-code");
  if (!article || matchMedia("(min-width: 80rem)").matches) return;
  article.focus({ preventScroll: true });
  article.scrollIntoView({ block: "start" });
});
