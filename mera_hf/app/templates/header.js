element.addEventListener("click", ({ target }) => {
  if (target.closest("#theme")) document.body.classList.toggle("dark");
});
