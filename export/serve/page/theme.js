// The colours: the system's, light or dark. A plain script, so that it runs before the first paint.
(() => {
  const THEMES = ["system", "light", "dark"];
  const NAMES = { system: "as the system", light: "light", dark: "dark" };
  let theme = "system";
  try {
    const kept = localStorage.getItem("theme");
    if (THEMES.includes(kept)) theme = kept;
  } catch {
    // a browser that keeps nothing: the system's colours
  }
  const apply = () => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
  };
  apply();
  document.addEventListener("DOMContentLoaded", () => {
    const name = document.querySelector("#theme-name");
    const button = document.querySelector("#theme");
    const show = () => {
      name.textContent = `Theme: ${NAMES[theme]}`;
      button.title = name.textContent;
      apply();
    };
    button.addEventListener("click", () => {
      theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
      try {
        localStorage.setItem("theme", theme);
      } catch {
        // it holds until the page is left
      }
      show();
    });
    show();
  });
})();
