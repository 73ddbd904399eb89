/* The masking of payloads (RFC 6455 section 5.3) in C: the one function that masking.py would like to be fast.

   What always holds: it gives new bytes and leaves its arguments alone; nothing is kept between two calls.
   The GIL stays held: a read of 64 KiB takes a few microseconds, less than other threads would gain. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

/* Two keys side by side fill a word. Words are moved by memcpy, so that neither alignment nor byte order
   matters; compilers make vector instructions of this loop at -O3. */
static void
xor_words(char *restrict out, const char *restrict in, Py_ssize_t size, const char *key)
{
    char twice[8] = {key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3]};
    uint64_t keys, word;
    Py_ssize_t i = 0;

    memcpy(&keys, twice, 8);
    for (; i + 8 <= size; i += 8) {
        memcpy(&word, in + i, 8);
        word ^= keys;
        memcpy(out + i, &word, 8);
    }
    for (; i < size; i++)
        out[i] = in[i] ^ twice[i & 3];
}

PyDoc_STRVAR(mask_doc, "mask($module, data, key, /)\n--\n\n"
                       "Xor the bytes-like data with the four bytes of key, repeated.");

static PyObject *
mask(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    Py_buffer data;
    PyObject *masked;

    if (count != 2 || !PyBytes_Check(args[1]) || PyBytes_GET_SIZE(args[1]) != 4) {
        PyErr_SetString(PyExc_TypeError, "mask() takes bytes-like data and a key of four bytes");
        return NULL;
    }
    if (PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) < 0)
        return NULL;
    masked = PyBytes_FromStringAndSize(NULL, data.len);
    if (masked != NULL)
        xor_words(PyBytes_AS_STRING(masked), data.buf, data.len, PyBytes_AS_STRING(args[1]));
    PyBuffer_Release(&data);
    return masked;
}

static PyMethodDef methods[] = {
    {"mask", (PyCFunction)(void (*)(void))mask, METH_FASTCALL, mask_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "trio_ws.wire._mask",
    .m_methods = methods,
};

PyMODINIT_FUNC
PyInit__mask(void)
{
    return PyModuleDef_Init(&definition);
}
