// The filter of the claims' table. Its choice stands in the address, so that it can be linked: claims.html?verdict=refuted

const form = document.getElementById("claims-filter");
if (form) {
  const rows = [...document.querySelectorAll("table.claims tr[id]")];
  const groups = [...document.querySelectorAll("table.claims tbody")];
  const selects = [...form.querySelectorAll("select")];

  const matches = (row, { name, value }) => !value || (name === "verdict" ? row.dataset.verdict === value : row.dataset[name].split(" ").includes(value));

  const show = () => {
    for (const row of rows) row.hidden = !selects.every((select) => matches(row, select));
    for (const group of groups) group.hidden = [...group.querySelectorAll("tr[id]")].every((row) => row.hidden);
    const left = rows.filter((row) => !row.hidden).length;
    document.getElementById("claims-count").textContent = `${left} of ${rows.length} claims`;
    const chosen = new URLSearchParams(selects.filter((x) => x.value).map((x) => [x.name, x.value]));
    const query = chosen.size ? `?${chosen}` : location.pathname;
    if (location.protocol !== "file:") history.replaceState(null, "", query + location.hash);
  };

  const asked = new URLSearchParams(location.search);
  for (const select of selects) {
    const value = asked.get(select.name);
    if ([...select.options].some((option) => option.value === value)) select.value = value;
    select.addEventListener("change", show);
  }
  form.addEventListener("reset", () => setTimeout(show));
  form.addEventListener("submit", (event) => event.preventDefault());
  show();
}
