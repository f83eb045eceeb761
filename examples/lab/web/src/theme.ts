/** The theme: the system's, or one that was chosen and is remembered. */

import { byId } from "./dom.js";

const KEY = "iommu-kit-lab-theme";

/** Shows the remembered theme and follows the switch. */
export function connectTheme(): void {
  const switches = [...byId("theme", HTMLFieldSetElement).querySelectorAll("input")];
  const remembered = localStorage.getItem(KEY);
  for (const input of switches) {
    if (input.value === remembered) input.checked = true;
    input.addEventListener("change", () => {
      localStorage.setItem(KEY, input.value);
      show(input.value);
    });
  }
  show(remembered ?? "system");
}

function show(theme: string): void {
  document.documentElement.dataset["theme"] = theme;
}
