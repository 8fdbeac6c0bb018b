"use strict";
(async () => {
  const unpack = async (id) => {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  };
  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      const head = button.parentElement, body = head.closest("table").tBodies[0];
      const up = head.ariaSort !== "ascending";
      for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
      head.ariaSort = up ? "ascending" : "descending";
      const key = (row) => row.cells[head.cellIndex];
      const compare = (a, b) => {
        const [x, y] = [key(a).dataset.value, key(b).dataset.value];
        if (x === undefined || y === undefined) return key(a).textContent.localeCompare(key(b).textContent);
        if (x === "" || y === "") return (x === "") - (y === "");  // a missing number is last
        return up ? x - y : y - x;
      };
      const rows = [...body.rows].sort(compare);
      if (!up && key(rows[0])?.dataset.value === undefined) rows.reverse();
      body.append(...rows);
    });
  }
  const say = document.getElementById("say");
  const places = [...document.querySelectorAll(".figure")];
  if (!places.length) return;
  if (typeof DecompressionStream === "undefined") {
    say.textContent = "The curves need a browser with DecompressionStream: Chrome 80, Firefox 113, Safari 16.4 or newer.";
    return;
  }
  const library = document.createElement("script");
  library.textContent = await unpack("library");
  document.head.append(library);
  Bokeh.set_log_level("error");
  const drawings = JSON.parse(await unpack("drawings"));
  const log = document.getElementById("log");
  const draw = async (place) => {
    const drawing = drawings[place.dataset.number];
    const item = structuredClone((log.checked && drawing.log) || drawing.linear);
    place.replaceChildren();
    place.dataset.drawn = "yes";
    await Bokeh.embed.embed_item(item, place);
  };
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting && !entry.target.dataset.drawn) draw(entry.target);
  }, { rootMargin: "600px" });
  for (const place of places) watch.observe(place);
  log.disabled = !drawings.some((drawing) => drawing.log);
  log.addEventListener("change", () => {
    for (const place of places) {
      const scale = place.parentElement.querySelector(".scale");
      if (scale) scale.textContent = log.checked && !drawings[place.dataset.number].log ? "linear: not all values are positive" : "";
      if (place.dataset.drawn && drawings[place.dataset.number].log) draw(place);
    }
  });
})();
