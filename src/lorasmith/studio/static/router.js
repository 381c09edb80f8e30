// Which page is shown: #/runs?run=runs/garp is the page static/pages/runs.js with these parameters.

let leave = new AbortController();

/** The link to a page. */
export function href(page, parameters = {}) {
  const query = new URLSearchParams(parameters).toString();
  return `#/${page}${query ? `?${query}` : ""}`;
}

/** Go to a page. With `replace`, the back button leads to the page before this one. */
export function go(page, parameters = {}, replace = false) {
  if (replace) location.replace(href(page, parameters));
  else location.hash = href(page, parameters).slice(1);
}

/** Change the parameters in the address without showing the page anew. */
export function remember(page, parameters) {
  history.replaceState(null, "", href(page, parameters));
}

/** Show the page of the address in `main`, and each further one. `onchange` gets the name of the page. */
export function start(main, names, onchange) {
  const show = async () => {
    const [name, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
    // A link inside the page, such as that to its content.
    if (name && !names.includes(name) && document.getElementById(name)) return;
    const page = names.includes(name) ? name : names[0];
    leave.abort();
    leave = new AbortController();
    const signal = leave.signal;
    onchange(page);
    main.replaceChildren();
    const module = await import(`/static/pages/${page}.js`);
    if (signal.aborted) return;
    document.title = `${module.title}: Lorasmith studio`;
    // A page gets an element of its own, so that one that is still loading cannot write into the next one.
    const root = document.createElement("div");
    root.className = `page page-${page}`;
    main.append(root);
    try {
      await module.render(root, Object.fromEntries(new URLSearchParams(query)), signal);
    } catch (error) {
      if (error.name === "AbortError" || signal.aborted) return;
      const box = document.createElement("div");
      box.className = "problem";
      box.setAttribute("role", "alert");
      box.textContent = error.message;
      root.append(box);
    }
  };
  window.addEventListener("hashchange", show);
  return show();
}
