// A button on each block of code that copies it: of a console, only what is typed, without the prompts.
for (const block of document.querySelectorAll("div.highlight")) {
  const button = document.createElement("button")
  button.className = "copy"
  button.type = "button"
  button.textContent = "Copy"
  button.title = "Copy this code"
  button.addEventListener("click", async () => {
    let text = block.querySelector("pre").innerText
    const typed = text.split("\n").filter((line) => line.startsWith("$ "))
    if (typed.length) text = typed.map((line) => line.slice(2)).join("\n") + "\n"
    try {
      await navigator.clipboard.writeText(text)
      button.textContent = "Copied"
    } catch {
      getSelection().selectAllChildren(block.querySelector("pre"))
      button.textContent = "Press Ctrl+C"
    }
    setTimeout(() => (button.textContent = "Copy"), 1500)
  })
  block.append(button)
}
// Tables scroll by themselves where the window is too narrow for them, so that the page need not.
for (const table of document.querySelectorAll("table.docutils")) {
  if (table.parentElement.classList.contains("table-wrapper")) table.parentElement.tabIndex = 0
}
