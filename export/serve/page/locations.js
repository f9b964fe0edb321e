import { panelButton } from "./panel.js";
export class LocationsPanel {
  constructor(page) { this.page = page; this.panel = panelButton("locations", "Where it looked", (body) => body.replaceChildren("soon")); }
  recorded() { return false; } clear() {} keep() {} refresh() {} clickImage() {}
}
