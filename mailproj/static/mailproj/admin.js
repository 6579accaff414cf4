// The boxes that the theme draws over a choice get the name of its field, for who hears the page rather than sees it.
(() => {
  const labelOf = (select) => {
    const label = select.id && document.querySelector(`label[for="${CSS.escape(select.id)}"]`);
    if (label && !label.id) label.id = `${select.id}_label`;
    return label;
  };
  const name = () => {
    for (const select of document.querySelectorAll("select.admin-autocomplete")) {
      const label = labelOf(select);
      const box = select.parentElement.querySelector(".select2 [role=combobox]");
      if (!label || !box || (box.getAttribute("aria-labelledby") || "").startsWith(label.id)) continue;
      box.setAttribute("aria-labelledby", `${label.id} ${box.getAttribute("aria-labelledby") || ""}`.trim());
    }
  };
  window.addEventListener("load", () => {
    if (!document.querySelector("select.admin-autocomplete")) return;
    name();
    new MutationObserver(name).observe(document.body, { childList: true, subtree: true }); // boxes come later, too
    const query = window.django && window.django.jQuery;
    if (!query) return;
    query(document).on("select2:open", (event) => {
      const label = labelOf(event.target);
      const field = document.querySelector(".select2-container--open .select2-search__field");
      if (label && field) field.setAttribute("aria-labelledby", label.id);
    });
  });
})();
