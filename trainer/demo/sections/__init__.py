"""The sections of the page; each has a function `section` from what is shown to HTML, empty where there is nothing."""
