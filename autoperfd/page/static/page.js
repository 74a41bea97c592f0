// Keeps a page fresh: asks for it again and puts the new <main> in place of the old one. Without it, reload by hand.
"use strict";
(() => {
  const every = Number(document.documentElement.dataset.refresh) * 1000;
  if (!every) return;
  const told = document.getElementById("told");
  const busy = () => document.hidden || document.querySelector("form :focus") || String(getSelection());
  const ask = async () => {
    if (busy()) return;
    try {
      const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(20000) });
      if (!answer.ok) throw new Error(answer.status);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (busy()) return;
      const open = [...document.querySelectorAll("main details")].map((each) => each.open);
      document.querySelector("main").replaceWith(fresh.querySelector("main"));
      document.querySelectorAll("main details").forEach((each, number) => { each.open = open[number] ?? each.open; });
      document.title = fresh.title;
      told.textContent = "";
    } catch {
      told.textContent = "autoperfd does not answer; this is the last that is known. ";
    }
  };
  setInterval(ask, every);
  document.addEventListener("visibilitychange", ask);
})();
