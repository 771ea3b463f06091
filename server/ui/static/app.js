// Comfort only: every page works without this file.
"use strict";

// A filter takes effect when a choice is made.
for (const select of document.querySelectorAll("form.filter select, form.filter input[type=checkbox]")) {
  select.addEventListener("change", () => select.form.requestSubmit());
}

// A click on a digest selects it whole; where the browser allows, it is copied.
for (const digest of document.querySelectorAll("code.digest")) {
  digest.addEventListener("click", async () => {
    getSelection().selectAllChildren(digest);
    try {
      await navigator.clipboard.writeText(digest.textContent);
      digest.classList.add("copied");
      setTimeout(() => digest.classList.remove("copied"), 1200);
    } catch {
      // Not allowed here: the selection is there to be copied by hand.
    }
  });
}

// "/" goes to the first field of the filter.
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.closest("input, textarea, select")) return;
  const field = document.querySelector("form.filter input[type=search], form.filter input:not([type=hidden]), form.filter select");
  if (field) {
    event.preventDefault();
    field.focus();
  }
});
