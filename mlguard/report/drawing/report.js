// The page reads without this. It adds a switch for the theme, and reads out a chart at the pointer.
(() => {
  "use strict";
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const name = () => { button.textContent = dark() ? "Light" : "Dark"; };
  button.hidden = false;
  name();
  system.addEventListener("change", name);
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    name();
  });

  const svg = "http://www.w3.org/2000/svg";
  for (const figure of document.querySelectorAll("figure[data-table]")) {
    const table = document.getElementById(figure.dataset.table);
    const steps = Number(figure.dataset.steps);
    const out = figure.querySelector("output");
    if (!table) continue;
    const heads = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
    const plots = [...figure.querySelectorAll("svg.plot:not(.axis)")];
    const cursors = plots.map((plot) => {
      const line = document.createElementNS(svg, "line");
      line.setAttribute("class", "cursor");
      line.setAttribute("y1", "0");
      line.setAttribute("y2", "100%");
      line.setAttribute("visibility", "hidden");
      plot.append(line);
      return line;
    });
    let at = -1;
    const show = (step) => {
      at = Math.min(Math.max(step, 0), steps - 1);
      const x = `${(100 * (at + 0.5)) / steps}%`;
      for (const line of cursors) {
        line.setAttribute("x1", x);
        line.setAttribute("x2", x);
        line.setAttribute("visibility", "visible");
      }
      const cells = [...table.tBodies[0].rows[at].cells].map((cell) => cell.textContent);
      const when = document.createElement("b");
      when.textContent = cells[0];
      const values = cells.slice(1).map((value, place) => [heads[place + 1], value]).filter(([, value]) => value !== "0" && value !== "–");
      const said = values.map(([head, value]) => {
        const one = document.createElement("span");
        one.textContent = `${head} ${value}`;
        return one;
      });
      if (!said.length) said.push("no calls");
      out.replaceChildren(when, ...said);
      out.hidden = false;
    };
    figure.addEventListener("pointermove", (event) => {
      const box = plots[0].getBoundingClientRect();
      const share = (event.clientX - box.left) / box.width;
      if (share >= 0 && share <= 1) show(Math.floor(share * steps));
    });
    figure.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by || event.target !== figure) return;
      event.preventDefault();
      show(at < 0 ? (by > 0 ? 0 : steps - 1) : at + by);
    });
  }
})();
