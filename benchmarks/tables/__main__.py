from benchmarks.tables import DOCUMENTS, ROOT, render
from unreel.files import write_text

for document, tables in DOCUMENTS.items():
    write_text(ROOT / document, render((ROOT / document).read_text(), tables))
    print(f"wrote {document}")
