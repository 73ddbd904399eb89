// A button on each block of code that copies it: of a console, only what is typed, without the prompts. Where a
// block is a part of a program, a second button copies the whole program (docs/programs.py).
for (const block of document.querySelectorAll("div.highlight")) {
  const pre = block.querySelector("pre")
  const buttons = document.createElement("div")
  buttons.className = "copy"
  addButton(buttons, pre, "Copy", "Copy this code", () => {
    const typed = pre.innerText.split("\n").filter((line) => line.startsWith("$ "))
    return typed.length ? typed.map((line) => line.slice(2)).join("\n") + "\n" : pre.innerText
  })
  const name = [...(block.parentElement?.classList ?? [])].find((one) => one.startsWith("program-"))
  const program = name && document.getElementById(name)
  if (program) {
    const title = `Copy the program that this is a part of, ${program.dataset.file}`
    addButton(buttons, pre, "Copy program", title, () => program.content.textContent)
  }
  block.append(buttons)
}
function addButton(buttons, pre, label, title, text) {
  const button = document.createElement("button")
  button.type = "button"
  button.textContent = label
  button.title = title
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text())
      button.textContent = "Copied"
    } catch {
      getSelection().selectAllChildren(pre)
      button.textContent = "Press Ctrl+C"
    }
    setTimeout(() => (button.textContent = label), 1500)
  })
  buttons.append(button)
}
// Tables scroll by themselves where the window is too narrow for them, so that the page need not.
for (const table of document.querySelectorAll("table.docutils")) {
  if (table.parentElement.classList.contains("table-wrapper")) table.parentElement.tabIndex = 0
}
