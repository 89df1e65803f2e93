"""PyTorch's archives of code (`torch.package`): their names can be imported; Kiln writes and runs no code from files."""

from .refusal import refuse

refuse(
    __name__,
    "PackageExporter PackageImporter Importer OrderedImporter ObjNotFoundError ObjMismatchError PackagingError "
    "EmptyMatchError Directory GlobGroup sys_importer is_from_package",
    "archives that hold code", "kiln.export.save(kiln.export.export(model, args)) writes programs without code",
)  # fmt: skip
