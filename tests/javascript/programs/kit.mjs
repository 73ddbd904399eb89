/** What the programs beside this share. Their first argument is the URL of the server. */

export const url = process.argv[2]
export const print = (value) => console.log(JSON.stringify(value))

/** How a promise ended: its value, or its error. */
export const failure = async (promise) => {
  try { return ["value", await promise] }
  catch (error) { return [error.name, error.code, error.message, error.data] }
}
