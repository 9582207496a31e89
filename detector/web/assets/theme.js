// Before the first paint, so that a page chosen to be dark does not flash white at night; the rest is in header.js.
document.documentElement.dataset.theme = localStorage.getItem("offnominal.theme") ?? "auto";
